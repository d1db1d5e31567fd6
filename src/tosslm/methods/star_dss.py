"""Dynamic safety shaping: a guard reads along, and what it finds unsafe is held to the base instead of learnt."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from tosslm.config import Config
from tosslm.methods.guard import guarded
from tosslm.methods.material import Material
from tosslm.methods.method import Method, keep_all, paper_settings
from tosslm.methods.needs import GUARD, guard_parts
from tosslm.runs.tables import stored_rows

if TYPE_CHECKING:
    from tosslm.workbench import Workbench

UNSAFE = "unsafe"
P_UNSAFE = "probability of unsafe"


def safe_weights(material: Material) -> np.ndarray:
    """The guard's probability of safe at each token, float32 ``[N]``; 1 where it gave none."""
    return (1 - np.nan_to_num(material.signals[P_UNSAFE], nan=0.0)).astype(np.float32)


def keep_safe_segments(material: Material) -> np.ndarray:
    """All tokens but those of segments that the guard calls unsafe, however many; bool ``[N]``."""
    return ~material.signals[UNSAFE]


def guard_probabilities(bench: Workbench) -> np.ndarray:
    """The probability that the guard of ``compare.guard`` gives to unsafe at each token, float64 ``[N]``."""
    from tosslm.evaluation.classifiers import unsafe_probabilities

    return guarded(bench, _custom_rows(bench), unsafe_probabilities)


def guard_marks(bench: Workbench) -> np.ndarray:
    """Tokens of segments that the guard of ``compare.guard`` calls unsafe, bool ``[N]``."""
    from tosslm.evaluation.classifiers import classify_attacks

    return guarded(bench, _custom_rows(bench), classify_attacks) == 1


def _custom_rows(bench: Workbench) -> Iterator[dict[str, Any]]:
    return stored_rows(bench.layout.rows("custom"), ["messages", "offsets"])


def _settings(config: Config) -> dict[str, Any]:
    return paper_settings(config) | {"finetune.normalize": "kept"}


def _hard_settings(config: Config) -> dict[str, Any]:
    return _settings(config) | {"finetune.dropped": "anchor", "finetune.anchor_first": 0}


STAR_DSS = Method(
    "star-dss",
    summary="weighs each token's loss by a guard's probability of safe, and KL to the base by what is left of it",
    source="Peng et al. 2025, arXiv 2505.17196",
    badge="variant",
    differs="the whole KL to the base, weighed 1, where their code takes half the squared log-ratio of the row's "
    "own token (the k2 estimate), and their scripts weigh it 0.5; the guard's probability as it is, where theirs is "
    "of scores at temperature 0.2 and top-p 0.9, and so nearer to 0 or 1; segments of compare.guard_segment tokens, "
    "where theirs have five words; what the guard calls neither safe nor unsafe counts as safe; a LoRA is trained "
    "instead of all weights. Checked against the copy of their code in secml-lab-vt/Optimus; their own repository "
    "was not at hand",
    builds_on="data",
    choose=keep_all,
    token_weights=safe_weights,
    hold=True,
    signals={P_UNSAFE: guard_probabilities},
    overrides=_settings,
    needs=(GUARD,),
    choice_covers=guard_parts,
    version=2,
)
STAR_DSS_HARD = Method(
    "star-dss-hard",
    summary="holds segments that a guard model calls unsafe to the base by KL, and trains on the others",
    source="after Peng et al. 2025, arXiv 2505.17196",
    badge="simplified",
    differs="the guard decides for or against a segment, where theirs weighs the two losses by its probability "
    "(see star-dss); the KL is weighed by finetune.anchor_weight, and divided as finetune.anchor_normalize says",
    builds_on="data",
    choose=keep_safe_segments,
    signals={UNSAFE: guard_marks},
    overrides=_hard_settings,
    needs=(GUARD,),
    choice_covers=guard_parts,
)
