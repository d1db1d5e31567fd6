"""Bfloat16 products on a processor that has none, as one that has them takes them: in float32, then rounded.

The results of the study are of bfloat16. A processor with AVX2 alone takes such products about ten times as slowly as
float32 ones, and the study would take days there. Hardware multiplies bfloat16 exactly, sums in float32 and rounds
the sum once; so does a float32 product of the same numbers that is rounded afterwards. What differs is the order of
the sum, as between any two processors.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.utils.weak import WeakTensorKeyDictionary

from tosslm.model.device import multiplies_bfloat16_fast

_linear = torch.nn.functional.linear
_wide: Any = WeakTensorKeyDictionary()  # weights that do not train, in float32


def widen_products() -> None:
    """Have linear layers take bfloat16 products in float32 and round, where the processor has none of its own."""
    if not multiplies_bfloat16_fast():
        torch.nn.functional.linear = wide_linear  # type: ignore[assignment]


def wide_linear(inputs: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """A linear layer; in bfloat16 its sums, and those of its gradients, are float32's, rounded once.

    Args:
        inputs: (..., in).
        weight: (out, in); its float32 copy is kept where it does not train.
        bias: (out,) or None.

    Returns:
        (..., out), in the dtype of the inputs.
    """
    if inputs.dtype != torch.bfloat16:
        return _linear(inputs, weight, bias)
    wide_bias = None if bias is None else bias.float()
    return _linear(inputs.float(), _in_float32(weight), wide_bias).to(inputs.dtype)


def _in_float32(weight: torch.Tensor) -> torch.Tensor:
    if weight.requires_grad or not isinstance(weight, torch.nn.Parameter):
        return weight.float()
    kept = _wide.get(weight)
    if kept is None or kept[0] != weight._version:
        with torch.inference_mode(False):  # a copy that was made while a model answered may be trained through later
            kept = _wide[weight] = (weight._version, weight.detach().float())
    return kept[1]
