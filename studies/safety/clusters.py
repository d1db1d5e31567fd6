"""Prompts that ask for nearly the same, as one: AdvBench has many, and a bootstrap must not count them apart."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

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
