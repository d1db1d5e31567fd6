"""Bfloat16 products on a processor that has none, as one that has them takes them: in float32, then rounded.

The results of the study are of bfloat16. A processor with AVX2 alone takes such products many times as slowly as
float32 ones, and the study would take days there. Hardware multiplies bfloat16 exactly, sums in float32 and rounds
the sum once; so does a float32 product of the same numbers that is rounded afterwards. What differs is the order of
the sum, as between any two processors. Attention is computed in float32 altogether, and what comes out is rounded.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.utils.weak import WeakTensorKeyDictionary

from tosslm.model.device import multiplies_bfloat16_fast

_linear, _attention = torch.nn.functional.linear, torch.nn.functional.scaled_dot_product_attention
_wide: Any = WeakTensorKeyDictionary()  # weights that do not train, in float32


def widen_products() -> None:
    """Have layers take bfloat16 products in float32 and round, where the processor has none of its own."""
    if not multiplies_bfloat16_fast():
        torch.nn.functional.linear = wide_linear  # type: ignore[assignment]
        torch.nn.functional.scaled_dot_product_attention = wide_attention  # type: ignore[assignment]


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


def wide_attention(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, attn_mask: torch.Tensor | None = None, **how: Any
) -> torch.Tensor:
    """Scaled dot-product attention; of bfloat16 it is float32's, rounded once, and so are its gradients.

    Args:
        query: (..., asking, width).
        key: (..., read, width).
        value: (..., read, width).
        attn_mask: as PyTorch's own; a mask of numbers has the dtype of the query.
        how: what else PyTorch's own is given.

    Returns:
        (..., asking, width), in the dtype of the query.
    """
    if query.dtype != torch.bfloat16:
        return _attention(query, key, value, attn_mask, **how)
    mask = attn_mask.float() if attn_mask is not None and attn_mask.is_floating_point() else attn_mask
    return _attention(query.float(), key.float(), value.float(), mask, **how).to(query.dtype)


def _in_float32(weight: torch.Tensor) -> torch.Tensor:
    if weight.requires_grad or not isinstance(weight, torch.nn.Parameter):
        return weight.float()
    kept = _wide.get(weight)
    if kept is None or kept[0] != weight._version:
        with torch.inference_mode(False):  # a copy that was made while a model answered may be trained through later
            kept = _wide[weight] = (weight._version, weight.detach().float())
    return kept[1]
