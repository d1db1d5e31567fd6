"""A model as a plan knows it: without weights, with its shape, and how long each unit of work lasts under it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np

from tosslm.config import Config, TrainingConfig
from tosslm.model.base import Base
from tosslm.model.device import choose_device
from tosslm.model.losses import batch_budget, plan_batches
from tosslm.model.shape import Shape
from tosslm.model.speed import described, multiplications, shape_of
from tosslm.planning.pace import Batches, Device, constant_pace, expected_pace
from tosslm.planning.sample import asked_at_once, mean_batch, micro_batches, padded
from tosslm.planning.turns import SECONDS
from tosslm.planning.work import OWN_TOKENS, Pace, Unit, held_out_rows

Samples = Mapping[str, Sequence[Mapping[str, Any]]]
_BEGIN_SECONDS = 5.0
"""Of importing the training libraries, where that is not timed."""
_BYTES = {"cpu": 10e9, "cuda": 1.5e12, "mps": 150e9}
_STEPS = {"cpu": 100.0, "cuda": 40.0, "mps": 30.0}


@dataclass(frozen=True, slots=True)
class Reader:
    """A model without weights.

    Attributes:
        model: its modules, on the meta device.
        shape: what decides time and memory.
        pace: seconds of each unit of work.
        speed: tokens a second, ``reading`` and ``training``; and ``seconds`` that measuring them took, None where
            they are worked out.
    """

    model: Any
    shape: Shape
    pace: Pace
    speed: dict[str, float | None]


@dataclass(frozen=True, slots=True)
class Looking:
    """How models are looked at.

    Attributes:
        config: the config.
        measure: whether units of work are timed; else they are worked out from one matrix product.
        tokenise: seconds a token that reading and tokenising rows took.
        evaluates: whether a model is asked to write answers.
        say: told what is going on.
    """

    config: Config
    measure: bool
    tokenise: float
    evaluates: bool
    say: Callable[[str], None]

    def at(self, base: Base, samples: Samples, load: float, *, trains: bool = True, refers: bool = True) -> Reader:
        """A model, as it would read rows like these.

        Args:
            base: the model.
            samples: rows of ``custom``, ``harmful`` and ``utility``.
            load: seconds that its files took to read.
            trains: whether it is fine-tuned and evaluated.
            refers: whether references are trained on it. Where another model does one of the two, each is measured
                for half as long.
        """
        config = self.config
        model_config, model = described(base)
        shape = shape_of(base, model_config, model)
        begin, took = _BEGIN_SECONDS, None
        if self.measure:
            self.say("timing a few layers of the model's shape with random weights")
            from tosslm.planning.measure import measured_pace

            start = time.perf_counter()
            from tosslm.planning.trials import base_trials, reading_trial, reference_trials

            begin = time.perf_counter() - start
            trials = base_trials(config, base.tokenizer, samples, evaluates=self.evaluates) if trains else []
            trials += reference_trials(config, samples) if refers else [reading_trial(config, samples["custom"])]
            start = time.perf_counter()
            pace = measured_pace(base, model_config, shape, trials, SECONDS if trains and refers else SECONDS / 2)
            took = round(time.perf_counter() - start, 1)
        else:
            pace = expected_pace(config, shape, _device(base), _batches(config, base, samples))
        pace = {**pace, **constant_pace(begin=begin, load=load, tokenise=self.tokenise)}
        return Reader(model, shape, pace, _speed(config, samples, pace, trains=trains) | {"seconds": took})


def _device(base: Base) -> Device:
    kind = choose_device(base.config.device).type
    return Device(multiplications(base), _BYTES.get(kind, _BYTES["cpu"]), _STEPS.get(kind, _STEPS["cpu"]))


def _batches(config: Config, base: Base, samples: Samples) -> Batches:
    custom, harmful = samples["custom"], samples["harmful"]
    lengths = [len(row["input_ids"]) for row in custom]
    device = SimpleNamespace(device=choose_device(base.config.device))
    budget = batch_budget(device, config.scoring.batch_tokens)
    planned = plan_batches(lengths, budget)
    tokens = max(sum(lengths), 1)
    return Batches(
        references=mean_batch(_micro(config.references, [*harmful, *samples["utility"]])),
        finetune=mean_batch(_micro(config.finetune, custom)),
        padding=max(sum(padded([custom[i] for i in batch]) for batch in planned), 1) / tokens,
        responses=sum(int(np.sum(row["response_mask"])) for row in custom) / tokens,
        length=_mean([len(row["input_ids"]) for row in harmful]),
        answer=_mean([int(np.sum(row["response_mask"])) for row in harmful]),
        asked=len(asked_at_once(harmful, held_out_rows(config, len(harmful)), OWN_TOKENS, budget)) if harmful else 1,
    )


def _speed(config: Config, samples: Samples, pace: Pace, *, trains: bool) -> dict[str, float | None]:
    settings: TrainingConfig = config.finetune if trains else config.references
    unit: Unit = "finetune_batch" if trains else "reference_batch"
    rows = samples["custom"] if trains else [*samples["harmful"], *samples["utility"]]
    tokens = _mean([sum(len(row["input_ids"]) for row in batch) for batch in _micro(settings, rows)])
    return {"reading": round(1 / pace["read"], 1), "training": round(tokens / pace[unit], 1)}


def _micro(settings: TrainingConfig, rows: Sequence[Mapping[str, Any]]) -> list[list[Mapping[str, Any]]]:
    return micro_batches(rows, settings.batch_size, settings.rows_at_once)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / max(len(values), 1)
