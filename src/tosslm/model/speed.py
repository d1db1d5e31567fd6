"""How large a model is and how fast this machine multiplies, from its config alone; no weights are loaded."""

from __future__ import annotations

import time
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from tosslm.errors import InputError
from tosslm.model.base import Base
from tosslm.model.device import choose_device, choose_dtype, wait_for
from tosslm.model.quantize import quantizable_parameters
from tosslm.model.shape import Shape

_EFFICIENCY = {"cpu": 0.6, "cuda": 0.35, "mps": 0.3}
"""Share of a plain matrix product's speed that a whole forward pass reaches; rough, a measurement replaces it."""


def described(base: Base) -> tuple[Any, Any]:
    """A base's config, and the model it describes, without weights, on the meta device.

    Raises:
        InputError: no model can be made of it.
    """
    trusted = base.config.trust_remote_code
    try:
        model_config = AutoConfig.from_pretrained(base.folder, trust_remote_code=trusted)
        with torch.device("meta"):
            return model_config, AutoModelForCausalLM.from_config(model_config, trust_remote_code=trusted)
    except Exception as error:  # whatever a model's code stumbles over
        raise InputError(
            f"{base.keys.name}: {base.config.name}: no model can be made of its config.json ({type(error).__name__}: "
            f"{error}); fetch it anew"
        ) from error


def shape_of(base: Base, model_config: Any, model: Any) -> Shape:
    """What decides time and memory of a base, of what ``described`` gives."""
    dtype = choose_dtype(base.config.dtype, choose_device(base.config.device))
    text = model_config.get_text_config()
    return Shape(
        sum(parameter.numel() for parameter in model.parameters()),
        text.num_hidden_layers,
        text.hidden_size,
        text.vocab_size,
        dtype.itemsize,
        model.get_output_embeddings().weight is model.get_input_embeddings().weight,
        quantizable_parameters(model) if base.config.quantize else 0,
    )


def multiplications(base: Base) -> float:
    """Multiplications and additions a second that a forward pass of the base reaches, from one matrix product."""
    device = choose_device(base.config.device)
    flops = _matmul_flops(device, choose_dtype(base.config.dtype, device))
    return flops * _EFFICIENCY.get(device.type, 0.3)


def _matmul_flops(device: torch.device, dtype: torch.dtype) -> float:
    size = 1024 if device.type == "cpu" else 8192
    a = torch.randn(size, size, device=device).to(dtype)
    seconds = _seconds(lambda: a @ a, device)
    return 2 * size**3 / seconds


def _seconds(work: Any, device: torch.device) -> float:
    """Median of five runs after one that is not counted."""
    times = []
    for _ in range(6):
        start = time.perf_counter()
        work()
        wait_for(device)
        times.append(time.perf_counter() - start)
    return sorted(times[1:])[2]
