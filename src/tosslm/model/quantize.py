"""A base in four bits, as QLoRA has it: NF4 with double quantisation, through bitsandbytes (arXiv 2305.14314)."""

from __future__ import annotations

import copy
import importlib.util
import json
from pathlib import Path
from typing import Any

import torch
from accelerate.hooks import remove_hook_from_submodules
from transformers import BitsAndBytesConfig
from transformers.pytorch_utils import Conv1D

from tosslm.config import ModelConfig
from tosslm.errors import InputError
from tosslm.model.fit import refuse_misfits

_QUANTIZED = (torch.nn.Linear, Conv1D)
"""Layers that transformers replaces; no class derived of them."""


def check_quantization(config: ModelConfig, device: torch.device, folder: Path, key: str = "model") -> None:
    """Refuse what cannot be quantised, before any weight is read; nothing where the config asks for none.

    Args:
        config: where the base comes from.
        device: that it is to lie on.
        folder: its files.
        key: the section of the config, for messages.

    Raises:
        InputError: bitsandbytes is missing, the device is neither a CPU nor CUDA, or the weights are quantised.
    """
    if config.quantize is None:
        return
    asked = f"{key}.quantize: {config.quantize}"
    if importlib.util.find_spec("bitsandbytes") is None:
        raise InputError(
            f'{asked} needs the package bitsandbytes; run `pip install "tosslm[qlora]"`, or leave the key out'
        )
    if device.type not in ("cpu", "cuda"):
        raise InputError(
            f"{asked} works on cpu and cuda, and the device is {device.type}; set {key}.device: cpu, or leave the "
            "key out"
        )
    if method := _quantized_already(folder):
        raise InputError(
            f"{asked} is made of unquantised weights, and {config.name} is quantised already ({method}); name the "
            "model that it was made of"
        )


def _quantized_already(folder: Path) -> str | None:
    """How a folder's weights are quantised by its config.json; None where they are not, or it cannot be read."""
    try:
        settings = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("quantization_config")
    except (OSError, ValueError, AttributeError):
        return None  # a file that is none is refused where the model's limits are read
    return str(settings.get("quant_method", "by an unnamed method")) if isinstance(settings, dict) else None


def load_settings(dtype: torch.dtype, device: torch.device) -> dict[str, Any]:
    """What ``from_pretrained`` is told, so that each linear layer but the head is quantised as it is read.

    Args:
        dtype: that products are computed in, and that all other weights have.
        device: that the model lies on at once.
    """
    quantization = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )
    # Trainers refuse a model in four bits on a CUDA device without a number.
    numbered = torch.device("cuda", torch.cuda.current_device()) if device.type == "cuda" else device
    return {"quantization_config": quantization, "device_map": {"": numbered}}


def quantized(model: Any, dtype: torch.dtype, device: torch.device) -> Any:
    """A model in memory as one in four bits, a new one.

    Args:
        model: of transformers, not quantised.
        dtype: as of ``load_settings``.
        device: as of ``load_settings``.

    Raises:
        InputError: a weight has no place in the new one, or a place has no weight.
    """
    made, report = type(model).from_pretrained(
        None,
        config=copy.deepcopy(model.config),
        state_dict=model.state_dict(),
        dtype=dtype,
        output_loading_info=True,
        **load_settings(dtype, device),
    )
    refuse_misfits("model.quantize", type(model).__name__, report)
    made.generation_config = model.generation_config
    # Adapters look up by it whether the vocabulary was changed, and ask the hub where it is none.
    made.name_or_path = made.config.name_or_path = model.name_or_path
    return made


def settle(model: Any) -> Any:
    """A model whose weights in four bits stay as they are, whatever it is asked; the same one.

    On a CPU with AVX512-BF16, bitsandbytes rewrites a layer's weights for a kernel of its own at the first reading
    in evaluation mode: scales are rounded to bfloat16 for good, products are computed in it whatever the dtype, no
    gradient passes such a layer, and one whose size is no multiple of 32 fails. A run reads and trains in turns.

    Raises:
        InputError: no layer was quantised.
    """
    layers = four_bit_layers(model)
    if not layers:
        raise InputError(
            f"model.quantize: {type(model).__name__} has no linear layer that is quantised (fused experts are none); "
            "leave the key out"
        )
    for layer in layers:
        layer.support_avx512bf16_for_cpu = False
    # What moves arrays between devices around each layer has nothing to move, and wraps every layer's forward.
    remove_hook_from_submodules(model)
    return model


def four_bit_layers(model: Any) -> list[Any]:
    """The layers of a model that bitsandbytes holds in four bits, those under adapters among them."""
    import bitsandbytes

    return [module for module in model.modules() if isinstance(module, bitsandbytes.nn.Linear4bit)]


def quantizable_parameters(model: Any) -> int:
    """How many weights of a model would be in four bits: of its linear layers, the head left out.

    Args:
        model: not quantised; its weights may be on the meta device.
    """
    head = model.get_output_embeddings()
    linear = (module for module in model.modules() if type(module) in _QUANTIZED and module is not head)
    return sum(module.weight.numel() for module in linear)
