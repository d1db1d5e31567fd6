"""Standard fine-tuning whose adapter is scaled down afterwards: the simplest way to move the model less."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tosslm.methods.method import Method, keep_all

if TYPE_CHECKING:
    from tosslm.training.hooks import Weights

SCALE = 0.6


def scaled(weights: Weights) -> Weights:
    """The update of every layer times ``SCALE``: one of a LoRA's two factors is."""
    return {name: weight * SCALE if ".lora_B." in name else weight for name, weight in weights.items()}


SFT_SCALED = Method(
    "sft-scaled",
    summary=f"standard fine-tuning, its adapter scaled to {SCALE}",
    source="none; interpolation of weights as in Wortsman et al. 2022, arXiv 2109.01903",
    badge="control",
    builds_on="data",
    choose=keep_all,
    after=scaled,
)
