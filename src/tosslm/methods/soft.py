"""TOSS with soft weights: a token counts the less, the further its score lies above the threshold."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from tosslm.methods.material import Material
from tosslm.methods.method import Method, keep_all
from tosslm.selection.cut import select_tokens

if TYPE_CHECKING:
    from tosslm.workbench import Workbench

TEMPERATURE = "temperature"


def soft_weights(scores: np.ndarray, discard_fraction: float, temperature: float) -> np.ndarray:
    """``sigmoid((threshold - score) / temperature)``.

    The threshold lies halfway between the lowest score that TOSS would drop and the highest that it would keep, so
    that the weights go to TOSS's mask as the temperature goes to 0; tokens of equal scores at the cut go to 1/2.

    Args:
        scores: ``[N]``, nats.
        discard_fraction: share of the tokens with scores above the threshold; with none above it all weigh 1.
        temperature: nats, above 0; as it grows all weights go to 1/2.

    Returns:
        float32 ``[N]``, from 0 to 1.

    Examples:
        >>> soft_weights(np.array([0.0, 2.0, -np.log(3) + 1]), 0.4, 1.0).round(3).tolist()
        [0.731, 0.269, 0.75]
    """
    keep = select_tokens(scores.astype(np.float32), discard_fraction)
    if keep.all():
        return np.ones(len(scores), dtype=np.float32)
    threshold = (float(scores[~keep].min()) + float(scores[keep].max())) / 2
    # Without an overflow where a score is far above: sigmoid(x) = (1 + tanh(x / 2)) / 2.
    return ((1 + np.tanh((threshold - scores.astype(np.float64)) / (2 * temperature))) / 2).astype(np.float32)


def token_weights(material: Material) -> np.ndarray:
    """Each token's soft weight, float32 ``[N]``."""
    return soft_weights(material.scores, material.discard_fraction, float(material.signals[TEMPERATURE]))


def _temperature(bench: Workbench) -> np.ndarray:
    return np.array(bench.config.compare.soft_temperature)


def _covers(bench: Workbench) -> list[Any]:
    return [bench.config.compare.soft_temperature]


TOSS_SOFT = Method(
    "toss-soft",
    summary="TOSS that weighs each token by how far its score lies below the threshold, instead of dropping some",
    source="after Li et al. 2026, arXiv 2603.01185",
    badge="variant",
    differs="no token is dropped: one at the threshold counts half, and the discard fraction says only where that "
    "is; compare.soft_temperature is how fast weights fall, in nats of the score",
    choose=keep_all,
    token_weights=token_weights,
    signals={TEMPERATURE: _temperature},
    drops_share=True,
    choice_covers=_covers,
)
