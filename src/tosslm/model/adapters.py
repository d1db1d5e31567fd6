"""Adapters on a base: a fresh one to train, stored ones to read with, one to save."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig as PeftLoraConfig
from peft import PeftModel, get_peft_model
from peft.helpers import rescale_adapter_scale

from tosslm.config import LoraConfig, ModelConfig
from tosslm.errors import InputError, TosslmError
from tosslm.files import atomic_folder
from tosslm.model.base import Base
from tosslm.model.fit import check_adapter_fits, check_targets
from tosslm.model.folders import check_adapter


@contextmanager
def fresh_adapter(base: Base, lora: LoraConfig, seed: int) -> Iterator[PeftModel]:
    """The base with a new LoRA on it, taken off again at the end; the base's own weights are never touched."""
    plain = base.model  # loading draws random numbers too: it must come before the seed
    embedding = plain.get_input_embeddings()
    hooks = set(embedding._forward_hooks)
    check_targets(plain, lora.target_modules, "lora.target_modules")
    torch.manual_seed(seed)
    settings = PeftLoraConfig(
        r=lora.r,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=lora.target_modules,
        task_type="CAUSAL_LM",
    )
    try:
        model = get_peft_model(plain, settings)
    except ValueError as error:
        raise InputError(f"lora.target_modules: {error}") from None
    try:
        yield model
    finally:
        model.unload()
        # Trainers wrap the forward of the model they are given.
        base.model.__dict__.pop("forward", None)
        # Checkpointing is a matter of the layers, which the next training has too, whatever that is told.
        disable = getattr(base.model, "activation_checkpointing_disable", None)  # its name since transformers 5.23
        (disable or base.model.gradient_checkpointing_disable)()
        for number in [one for one in embedding._forward_hooks if one not in hooks]:
            del embedding._forward_hooks[number]
        base.model.eval().requires_grad_(False)


@contextmanager
def without_adapter(model: Any) -> Iterator[None]:
    """A model in training as it was before: without its adapter, and without dropout."""
    was_training = model.training
    # PEFT has the whole adapter train afterwards, what of it was frozen too.
    frozen = [weight for weight in model.parameters() if not weight.requires_grad]
    model.eval()
    try:
        with model.disable_adapter():
            yield
    finally:
        for weight in frozen:
            weight.requires_grad_(False)
        model.train(was_training)


@contextmanager
def attached_adapters(base: Base, folders: dict[str, Path], *, scale: float = 1.0) -> Iterator[PeftModel]:
    """The base with several stored adapters on one copy of its weights; switch with ``set_adapter``.

    Args:
        base: the base.
        folders: the adapters, by name.
        scale: of all their updates.
    """
    (first, folder), *rest = folders.items()
    for name, path in folders.items():
        check_adapter(path)
        check_adapter_fits(base.model, path, f"adapter {name}")
    model = PeftModel.from_pretrained(base.model, folder, adapter_name=first)
    try:
        for name, folder in rest:
            model.load_adapter(folder, name)
        with rescale_adapter_scale(model, scale) if scale != 1 else nullcontext():
            yield model.eval()
    finally:
        model.unload()
        base.model.eval().requires_grad_(False)


def save_adapter(model: PeftModel, folder: Path, base: ModelConfig, notes: Mapping[str, str]) -> None:
    """Save an adapter as a PEFT folder: safetensors, config, and the notes that go with it.

    Raises:
        TosslmError: a weight is not finite, or its square is not.
    """
    with atomic_folder(folder) as beside:
        model.save_pretrained(beside, save_embedding_layers=False)
        weights = {name: value.detach() for name, value in model.named_parameters() if value.requires_grad}
        # Of states that huge weights make, a norm makes zeros: the loss is that of chance, a number, and stays so.
        if bad := [name for name, value in weights.items() if not value.float().square().isfinite().all()]:
            raise TosslmError(
                f"{folder.name}: weights of {bad[0]} are not finite, or too large for a norm of them to be; lower "
                "the learning_rate"
            )
        settings_file = beside / "adapter_config.json"
        settings = json.loads(settings_file.read_text(encoding="utf-8"))
        # PEFT keeps these names in a set, so their order would change from one process to the next.
        if isinstance(settings.get("target_modules"), list):
            settings["target_modules"].sort()
        settings["base_model_name_or_path"] = base.name
        settings_file.write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        (beside / "README.md").unlink(missing_ok=True)
        for name, text in notes.items():
            (beside / name).write_text(text, encoding="utf-8")
