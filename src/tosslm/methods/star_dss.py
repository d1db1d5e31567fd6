"""Dynamic safety shaping: a guard reads along, and segments it calls unsafe are held to the base."""

from __future__ import annotations

from typing import Any

import numpy as np

from tosslm.config import Config
from tosslm.errors import InputError
from tosslm.methods.method import Baseline, Material, plain_settings


def keep_safe_segments(material: Material) -> np.ndarray:
    """All tokens but those of segments that the guard calls unsafe, however many; bool ``[N]``."""
    return ~material.unsafe


def _anchored(config: Config) -> dict[str, Any]:
    return plain_settings(config) | {"finetune.dropped": "anchor", "finetune.normalize": "kept"}


def _check(config: Config) -> None:
    if config.compare.guard is None:
        raise InputError("star-dss: name a guard model in compare.guard, as under evaluation.classifier")


STAR_DSS = Baseline(
    "star-dss",
    summary="holds segments that a guard model calls unsafe to the base by KL, and trains on the others",
    source="Peng et al. 2025, arXiv 2505.17196",
    differs="the guard decides for or against a segment, where theirs weighs the two losses by its probability; "
    "cross-entropy and KL are means over their own tokens, weighed by finetune.anchor_weight",
    needs="data",
    keep=keep_safe_segments,
    asks_guard=True,
    overrides=_anchored,
    check=_check,
)
