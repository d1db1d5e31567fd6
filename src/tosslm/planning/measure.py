"""How long units of work last on this machine: a few layers of the model's shape, with random weights, do them.

Each unit is what a run does: rows of the set itself, in batches as the run makes them, under adapters of the config's
rank and targets. It is done at two depths in turns, so that a machine that slows down slows both; what the layers
between them take is what every further one takes.
"""

from __future__ import annotations

import copy
import statistics
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from tosslm.config import LoraConfig
from tosslm.model.adapters import fresh_adapter
from tosslm.model.base import Base
from tosslm.model.device import choose_device, choose_dtype, wait_for
from tosslm.model.quantize import quantized, settle
from tosslm.model.shape import Shape
from tosslm.planning.turns import SECONDS, Turns, Work
from tosslm.planning.work import Pace, Unit

_SHALLOW = 2
_DEEPER = 6
_CPU_PARAMETERS = 30e6
"""Parameters in the layers that a CPU reads beyond the shallow model, at most, unless one layer has more."""


@dataclass(frozen=True, slots=True)
class Trial:
    """A piece of work that is timed.

    Attributes:
        unit: what it tells the time of.
        lora: the adapter that the model bears.
        prepare: makes the work, of the model, and says how many units it is.
        checkpointed: whether activations are computed anew in the backward pass.
        weight: its part of the seconds that all trials share, beside theirs: about as dear as it is.
    """

    unit: Unit
    lora: LoraConfig
    prepare: Callable[[Any], tuple[Work, float]]
    checkpointed: bool = False
    weight: float = 1.0


def measured_pace(
    base: Base, model_config: Any, shape: Shape, trials: Sequence[Trial], seconds: float = SECONDS
) -> Pace:
    """Seconds of each trial's unit, as the whole model would take.

    Args:
        base: whose shape it is; its weights are not read.
        model_config: of that model.
        shape: its shape.
        trials: what is timed.
        seconds: for all of them, beyond making the small models; each is done twice at least, whatever it takes.
    """
    depths = _depths(shape, choose_device(base.config.device))
    models = [base.with_weights(_few_layers(base, model_config, layers)) for layers in depths]
    turns = Turns(seconds, sum(trial.weight for trial in trials))
    found: dict[Unit, float] = {}
    for lora in _distinct([trial.lora for trial in trials]):
        with ExitStack() as stack:
            adapted = [stack.enter_context(fresh_adapter(model, lora, 0)) for model in models]
            for trial in trials:
                if trial.lora == lora:
                    with _prepared(adapted, trial) as (works, units):
                        timed = turns.of([_finished(work, adapted[0].device) for work in works], trial.weight)
                    shallow, each = _layers_apart(timed, depths)
                    found[trial.unit] = (shallow + (shape.layers - depths[0]) * each) / units
    return found


def _depths(shape: Shape, device: torch.device) -> tuple[int, ...]:
    """How many layers are timed: all of a shallow model, else two numbers of them."""
    if shape.layers <= _SHALLOW + 1:
        return (shape.layers,)
    each = max(shape.body / shape.layers, 1.0)
    deeper = _DEEPER if device.type != "cpu" else max(1, min(_DEEPER, int(_CPU_PARAMETERS / each)))
    return (_SHALLOW, min(_SHALLOW + deeper, shape.layers))


def _few_layers(base: Base, model_config: Any, layers: int) -> Any:
    """A model of the base's shape with random weights and so many layers."""
    small = copy.deepcopy(model_config)
    text = small.get_text_config()
    text.num_hidden_layers = layers
    if getattr(text, "layer_types", None):
        text.layer_types = text.layer_types[:layers]
    device = choose_device(base.config.device)
    dtype = choose_dtype(base.config.dtype, device)
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(
            small,
            dtype=dtype,
            trust_remote_code=base.config.trust_remote_code,
        )
    model = model.to(device)
    if base.config.quantize is not None:
        model = settle(quantized(model, dtype, device))
    return model.eval().requires_grad_(False)


@contextmanager
def _prepared(models: Sequence[Any], trial: Trial) -> Iterator[tuple[list[Work], float]]:
    """A trial's work on each model, and how many units it is; afterwards they are ready for another."""
    if trial.checkpointed:
        for model in models:
            model.gradient_checkpointing_enable()
            model.enable_input_require_grads()
    try:
        works = [trial.prepare(model) for model in models]
        yield [work for work, _ in works], works[0][1]
    finally:
        for model in models:
            _own_adapter_alone(model)
            model.zero_grad(set_to_none=True)
            model.eval()
            if trial.checkpointed:
                model.gradient_checkpointing_disable()


def _own_adapter_alone(model: Any) -> None:
    """Only the adapter that a model came with is on it, and trains, as before a trial that compares several."""
    first, *others = model.peft_config
    if others:
        model.set_adapter(first)
        for name in others:
            model.delete_adapter(name)


def _layers_apart(turns: Sequence[Sequence[float]], depths: Sequence[int]) -> tuple[float, float]:
    """Median seconds at the least depth, and of each further layer."""
    shallow = statistics.median(turn[0] for turn in turns)
    if len(depths) == 1:
        return shallow, 0.0
    apart = statistics.median(turn[1] - turn[0] for turn in turns)
    return shallow, max(apart, 0.0) / (depths[1] - depths[0])


def _finished(work: Work, device: torch.device) -> Work:
    """The work to its end, where a device goes on by itself."""

    def whole() -> None:
        work()
        wait_for(device)

    return whole


def _distinct(loras: Sequence[LoraConfig]) -> list[LoraConfig]:
    return [lora for i, lora in enumerate(loras) if lora not in loras[:i]]
