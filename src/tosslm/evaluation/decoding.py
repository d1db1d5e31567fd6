"""New tokens of a model, by settings that are ours alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from transformers import GenerationConfig

from tosslm.model.head import contiguous_head
from tosslm.model.memory import lowering


@contextmanager
def _settings_apart(model: Any) -> Iterator[None]:
    """A model without generation settings of its own, which would have their say where ours name nothing."""
    holders = [model, *([model.get_base_model()] if hasattr(model, "get_base_model") else [])]
    kept = [holder.generation_config for holder in holders]
    for holder in holders:
        holder.generation_config = GenerationConfig()
    try:
        yield
    finally:
        for holder, own in zip(holders, kept, strict=True):
            holder.generation_config = own


@torch.inference_mode()
def generated_ids(
    model: Any, tokens: Sequence[Sequence[int]], settings: GenerationConfig
) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
    """New tokens, int64 ``[B, T]``, and for each its logits ``[B, V]`` where the settings ask for them."""
    longest = max(map(len, tokens))
    input_ids = torch.full((len(tokens), longest), settings.pad_token_id, dtype=torch.long)
    attention_mask = torch.zeros_like(input_ids)
    for i, row in enumerate(tokens):
        # On the left: the answer follows the prompt's last token, not padding.
        input_ids[i, longest - len(row) :] = torch.as_tensor(row)
        attention_mask[i, longest - len(row) :] = 1
    with (
        contiguous_head(model),
        _settings_apart(model),
        lowering(
            f"answering {len(tokens)} prompts at once",
            "lower evaluation.batch_size (compare.guard.batch_size of a guard) or evaluation.max_new_tokens",
        ),
    ):
        output = model.generate(
            input_ids=input_ids.to(model.device),
            attention_mask=attention_mask.to(model.device),
            generation_config=settings,
        )
    if settings.return_dict_in_generate:
        return output.sequences[:, longest:].cpu(), output.logits
    return output[:, longest:].cpu(), ()
