"""Prompts that ask for nearly the same, as one: AdvBench has many, and a bootstrap must not count them apart."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache

import numpy as np
from studies.safety.data import advbench_prompts

from tosslm.data.rows import content_id
from tosslm.files import fingerprint

ALIKE = 0.4
"""Prompts are alike where the words that both have are this share of the words that either has."""
_SMALL = frozenset(
    ("a", "an", "and", "by", "for", "from", "how", "in", "of", "on", "or", "that", "the", "to", "with", "without")
)


def clusters(prompts: Sequence[str]) -> np.ndarray:
    """Which cluster each prompt is of, int64 ``[N]`` from 0: who is alike, and who is alike to one of these."""
    words = [frozenset(re.findall(r"[a-z]+", prompt.lower())) - _SMALL for prompt in prompts]
    label = list(range(len(prompts)))
    for one in range(len(prompts)):
        for other in range(one):
            either = words[one] | words[other]
            if label[one] != label[other] and either and len(words[one] & words[other]) / len(either) >= ALIKE:
                joined = {label[one], label[other]}
                label = [min(joined) if own in joined else own for own in label]
    return np.unique(label, return_inverse=True)[1]


def in_clusters(values: np.ndarray, weights: np.ndarray, label: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Values ``[S, N]`` and weights ``[N]`` of prompts to means ``[S, C]`` and weights ``[C]`` of their clusters.

    Means over all prompts stay what they are; what is drawn are clusters.
    """
    size = np.bincount(label, weights=weights)
    sums = np.array([np.bincount(label, weights=row * weights) for row in values]).reshape(len(values), len(size))
    return sums / size, size


@cache
def advbench_clusters(split: str) -> tuple[str, np.ndarray]:
    """Print of a split's AdvBench prompts, as results bear it, and the cluster of each."""
    records = advbench_prompts(split)
    ids = [content_id(record["messages"]) for record in records]
    return fingerprint(*ids)[:16], clusters([record["messages"][-1]["content"] for record in records])
