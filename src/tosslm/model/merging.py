"""An adapter merged into a model's weights, so that the model computes what both did side by side."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from peft import PeftConfig, PeftModel
from peft.helpers import rescale_adapter_scale

from tosslm.errors import InputError
from tosslm.model.fit import adapted_modules


def with_merged(model: Any, adapter: Path, key: str, scale: float = 1.0) -> Any:
    """A model with an adapter merged into its weights, which are changed in place.

    Args:
        model: of transformers, without adapters.
        adapter: folder of one that fits, as ``check_adapter_fits`` says.
        key: what names it, for messages.
        scale: of the adapter's update.

    Raises:
        InputError: the adapter's file is damaged, or its updates of a tied head and embedding are one.
    """
    if _untie(model, adapted_modules(adapter, key)) and _updates_as_one(adapter):
        raise InputError(
            f"{key}: {adapter} was trained with ensure_weight_tying, one update for head and embedding, which cannot "
            "be merged into them apart; train it without, or without these layers"
        )
    adapted = PeftModel.from_pretrained(model, adapter)
    with rescale_adapter_scale(adapted, scale) if scale != 1 else nullcontext():
        return adapted.merge_and_unload()


def _updates_as_one(adapter: Path) -> bool:
    return bool(getattr(PeftConfig.from_pretrained(str(adapter)), "ensure_weight_tying", False))


def _untie(model: Any, adapted: set[str]) -> bool:
    """Give the head weights of its own where it shares the embedding's and an update is of one of the two.

    Beside the weights an update of the head is the head's alone; merged into what both share, it would change every
    token's embedding too, and the model with it.

    Returns:
        Whether it did.
    """
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    if head is None or head.weight is not embedding.weight:
        return False
    shared = {name for name, module in model.named_modules() if module is embedding or module is head}
    if not shared & adapted:
        return False
    head.weight = torch.nn.Parameter(head.weight.detach().clone(), requires_grad=head.weight.requires_grad)
    # Else whoever loads the saved model would tie them again.
    for config in (model.config, model.config.get_text_config()):
        config.tie_word_embeddings = False
    return True
