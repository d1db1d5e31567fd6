"""Whether a training's learning rate ever comes to what the config says."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from tosslm.config import Config
from tosslm.config.training import TrainingConfig
from tosslm.runs.layout import MODEL


def warmup_told(key: str, settings: TrainingConfig, steps: int) -> str | None:
    """That a training ends before its warm-up does; None where it does not.

    Args:
        key: of the settings in the config.
        settings: of the training.
        steps: optimizer steps of it.

    Examples:
        >>> settings = TrainingConfig.model_validate({"warmup_steps": 100, "learning_rate": 1e-4})
        >>> warmup_told("finetune", settings, 100) is None, warmup_told("finetune", settings, 101) is None
        (False, True)
    """
    # The first step has a rate of 0.
    if settings.warmup_steps < steps or not settings.warmup_steps:
        return None
    return (
        f"{key}.warmup_steps ({settings.warmup_steps:,}) last longer than the training, which has {steps:,} steps: "
        f"its learning rate ends at {max(steps - 1, 0) / settings.warmup_steps:.0%} of {key}.learning_rate. Lower "
        "the warm-up, or raise the epochs."
    )


def warmup_warnings(config: Config, stages: Mapping[str, Any]) -> list[str]:
    """The same of the trainings of a run, the shortest of each kind.

    Args:
        config: of the run.
        stages: of its manifest.
    """
    steps: dict[str, int] = {}
    for step, facts in stages.items():
        key = "finetune" if step == MODEL else "references" if step.startswith("references/") else None
        if key and "steps" in facts:
            steps[key] = min(facts["steps"], steps.get(key, facts["steps"]))
    told = (warmup_told(key, getattr(config, key), count) for key, count in steps.items())
    return [one for one in told if one]


def warmup_expected(config: Config, rows: Mapping[str, int], *, references: bool, trains: bool) -> list[str]:
    """The same before a run, by the rows that there are.

    Args:
        config: of the run.
        rows: of each set.
        references: whether any are trained; rows that will be held out are counted in, so nothing is told too soon.
        trains: whether the base is fine-tuned.
    """
    counts = {"references": min(rows["harmful"], rows["utility"])} if references else {}
    counts |= {"finetune": rows["custom"]} if trains else {}
    told = []
    for key, count in counts.items():
        settings: TrainingConfig = getattr(config, key)
        told.append(warmup_told(key, settings, settings.epochs * math.ceil(count / settings.batch_size)))
    return [one for one in told if one]
