"""Causal attention on a CPU by plain products of matrices, block by block of the tokens that ask."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import causal_mask_function, sdpa_mask

_NAME = "tosslm_blocks"
_BLOCK = 64
"""Tokens that ask at once: fewer make the products small, more compute scores of tokens that lie ahead."""
_TRAINED = 512
"""Tokens of the longest rows whose scores are kept for gradients: these take less than activations there."""
_UNKNOWN = ("position_bias", "softcap", "s_aux", "cache", "output_attentions")
"""What an attention may be asked for beside plain attention."""


@contextmanager
def block_attention(model: Any) -> Iterator[None]:
    """The model with ``blockwise_causal`` as its attention, where that is quicker; as it was afterwards.

    That is on a CPU, whose fused kernel is slow at short rows, most of all in bfloat16; with gradients, for rows of
    at most 512 tokens, since their scores are kept until the backward pass. A model that does not take its attention
    from transformers' registry, or not ``sdpa``, keeps its own.
    """
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    config = model.config.get_text_config()
    fits = getattr(inner, "_supports_attention_backend", False) and config._attn_implementation == "sdpa"
    if not fits or model.device.type != "cpu":
        yield
        return
    config._attn_implementation = _NAME
    try:
        yield
    finally:
        config._attn_implementation = "sdpa"


def blockwise_causal(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scaling: float) -> torch.Tensor:
    """Causal attention; the last token that asks is the last that answers.

    Args:
        query: ``[B, H, T, D]``.
        key: ``[B, K, S, D]``, of ``K`` heads each of which serves ``H / K`` of the queries', ``S >= T``.
        value: ``[B, K, S, E]``.
        scaling: of the scores.

    Returns:
        ``[B, T, H, E]``.
    """
    rows, heads, asking, _ = query.shape
    served, known = key.shape[1], key.shape[2]
    group, before = heads // served, known - asking
    keys = key.transpose(2, 3).contiguous().view(rows * served, -1, known)
    values = value.contiguous().view(rows * served, known, -1)
    ahead = torch.ones(_BLOCK, _BLOCK, dtype=torch.bool).triu_(1)
    output = query.new_empty(rows, asking, served, group, value.shape[-1])
    for start in range(0, asking, _BLOCK):
        end = min(start + _BLOCK, asking)
        size, seen = end - start, before + end
        block = (query[:, :, start:end] * scaling).reshape(rows * served, group * size, -1)
        scores = torch.bmm(block, keys[:, :, :seen])
        scores.view(-1, group, size, seen)[..., before + start :].masked_fill_(ahead[:size, :size], -math.inf)
        mixed = torch.bmm(scores.softmax(-1), values[:, :seen])
        output[:, start:end] = mixed.view(rows, served, group, size, -1).permute(0, 3, 1, 2, 4)
    return output.flatten(2, 3)


def _attend(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    is_causal: bool | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    causal = getattr(module, "is_causal", True) if is_causal is None else is_causal
    unknown = dropout or any(kwargs.get(name) is not None and kwargs[name] is not False for name in _UNKNOWN)
    short = not torch.is_grad_enabled() or key.shape[2] <= _TRAINED
    if attention_mask is None and causal and not unknown and short:
        return blockwise_causal(query, key, value, query.shape[-1] ** -0.5 if scaling is None else scaling), None
    if attention_mask is None and causal and key.shape[2] > query.shape[2]:
        attention_mask = _causal_mask(query, key)
    return sdpa_attention_forward(module, query, key, value, attention_mask, dropout, scaling, is_causal, **kwargs)


def _causal_mask(query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
    asking, known = query.shape[2], key.shape[2]
    return torch.ones(asking, known, dtype=torch.bool, device=query.device).tril_(known - asking)[None, None]


def _mask(*args: Any, **kwargs: Any) -> torch.Tensor | None:
    """None where attention is plainly causal, else what ``sdpa`` would be given."""
    plain = kwargs.get("mask_function") is causal_mask_function and kwargs.get("local_size") is None
    if plain and kwargs.get("attention_mask") is None and kwargs.get("allow_is_causal_skip", True):
        return None
    return sdpa_mask(*args, **kwargs)


AttentionInterface.register(_NAME, _attend)
AttentionMaskInterface.register(_NAME, _mask)
