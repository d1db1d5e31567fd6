"""A warm-up that outlasts its training is told, before the run and of it, with what the learning rate came to."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import get_scheduler

from tosslm.config import load_config
from tosslm.config.training import TrainingConfig
from tosslm.findings.warmed import warmup_told, warmup_warnings
from tosslm.plan import make_plan
from tosslm.progress import SilentReporter
from tosslm.training.train import scheduler_name


@pytest.mark.parametrize("schedule", ["constant", "linear", "cosine"])
@pytest.mark.parametrize("steps", [1, 5, 9, 10, 11, 30])
def test_what_is_told_is_what_the_schedule_does(schedule: str, steps: int) -> None:
    settings = TrainingConfig.model_validate({"warmup_steps": 10, "lr_scheduler": schedule, "learning_rate": 0.5})
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=settings.learning_rate)
    scheduler = get_scheduler(scheduler_name(settings), optimizer, settings.warmup_steps, steps)
    rates = []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"] / settings.learning_rate)
        optimizer.step()
        scheduler.step()
    told = warmup_told("finetune", settings, steps)
    assert (told is None) == (max(rates) == 1)
    if told:
        assert f"ends at {max(rates):.0%} of finetune.learning_rate" in told


def test_of_a_run_each_kind_of_training_is_told_once(tiny_config: dict[str, Any]) -> None:
    tiny_config["references"]["warmup_steps"] = 20
    trained = {"references/utility": {"steps": 4}, "references/degraded/round-0": {"steps": 6}, "model": {"steps": 8}}
    (told,) = warmup_warnings(load_config(tiny_config), {"data": {}, **trained})
    assert told.startswith("references.warmup_steps (20) last longer than the training, which has 4 steps")


def test_a_plan_tells_before_anything_is_trained(tiny_config: dict[str, Any]) -> None:
    tiny_config["finetune"]["warmup_steps"] = 13  # 24 rows, 4 a step, twice: 12 steps
    plan = make_plan(load_config(tiny_config), measure=False, reporter=SilentReporter())
    (told,) = [warning for warning in plan["warnings"] if "warmup" in warning]
    assert told.startswith("finetune.warmup_steps (13) last longer than the training, which has 12 steps")
