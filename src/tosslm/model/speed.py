"""How large a model is and how fast this machine reads with it, from its config alone; no weights are loaded."""

from __future__ import annotations

import copy
import time
from dataclasses import dataclass
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from tosslm.errors import InputError
from tosslm.model.base import Base, choose_device, choose_dtype

_EFFICIENCY = {"cpu": 0.6, "cuda": 0.35, "mps": 0.3}
"""Share of a plain matrix product's speed that a whole forward pass reaches; rough, --measure replaces it."""
_TRAINING_PASSES = 2.3
"""A LoRA training step in forward passes: activations' gradients, but none of the frozen weights."""


@dataclass(frozen=True, slots=True)
class Shape:
    """What of a model decides time and memory."""

    parameters: int
    layers: int
    hidden: int
    vocabulary: int
    bytes_per_value: int

    @property
    def body(self) -> int:
        """Parameters that every token passes through; the embedding is looked up, the head counts by itself."""
        return self.parameters - self.hidden * self.vocabulary


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
    )


def expected_speed(base: Base, shape: Shape) -> dict[str, float]:
    """Tokens a second, ``reading`` and ``training``, from the time of one matrix product."""
    device = choose_device(base.config.device)
    flops = _matmul_flops(device, choose_dtype(base.config.dtype, device)) * _EFFICIENCY.get(device.type, 0.3)
    reading = flops / (2 * shape.body + shape.hidden * shape.vocabulary)
    return {"reading": reading, "training": reading / _TRAINING_PASSES}


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
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - start)
    return sorted(times[1:])[2]


def measured_speed(base: Base, model_config: Any, shape: Shape, length: int) -> dict[str, float]:
    """The same from two layers of the base's shape with random weights, on rows of so many tokens."""
    device = choose_device(base.config.device)
    dtype = choose_dtype(base.config.dtype, device)
    small = copy.deepcopy(model_config)
    layers = min(2, shape.layers)
    small.get_text_config().num_hidden_layers = layers
    if getattr(small.get_text_config(), "layer_types", None):
        small.get_text_config().layer_types = small.get_text_config().layer_types[:layers]
    model = AutoModelForCausalLM.from_config(small, dtype=dtype, trust_remote_code=base.config.trust_remote_code).to(
        device
    )
    ids = torch.randint(0, shape.vocabulary, (4, length), device=device)
    body = model.base_model
    head = model.get_output_embeddings()
    model.requires_grad_(False)

    def read() -> None:
        with torch.inference_mode():
            body(input_ids=ids, use_cache=False)

    def read_head() -> None:
        with torch.inference_mode():
            head(torch.zeros(2 * length, shape.hidden, device=device, dtype=dtype))

    def train() -> None:
        # The gradient passes through the frozen layers to their input, as it does to adapters in every layer.
        embedded = model.get_input_embeddings()(ids).requires_grad_()
        body(inputs_embeds=embedded, use_cache=False).last_hidden_state.float().sum().backward()

    scale = shape.layers / layers
    heads = _seconds(read_head, device)
    reading = 4 * length / (_seconds(read, device) * scale + heads)
    training = 4 * length / (_seconds(train, device) * scale + 3 * heads)
    return {"reading": reading, "training": training}
