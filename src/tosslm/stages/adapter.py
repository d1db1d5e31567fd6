"""What trains a LoRA, for the stages that do: the references and the fine-tuning."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tosslm.config import Config, TrainingConfig, covered
from tosslm.runs.recorded import Mark
from tosslm.stages.step import Facts, Step
from tosslm.team import current
from tosslm.tracking import Trackers
from tosslm.workbench import Workbench

if TYPE_CHECKING:
    from datasets import Dataset

    from tosslm.model.base import Base
    from tosslm.training.train import Notes, Recipe

_ROWS = "rows.arrow"


def _no_parts(bench: Workbench) -> list[Any]:
    return []


def _the_base(bench: Workbench) -> Base:
    return bench.base


@dataclass(frozen=True, slots=True)
class Training:
    """What an adapter is trained on, and how.

    Attributes:
        settings: learning rate, batch sizes and the like.
        recipe: the settings with seed, loss and hooks.
        rows: the training rows, as ``training_row`` makes them.
        notes: files of text that go with the adapter.
        covers: what the training depends on beside settings, seed, base and the steps it reads.
        base: what is trained.
    """

    settings: Callable[[Config], TrainingConfig]
    recipe: Callable[[Workbench], Recipe]
    rows: Callable[[Workbench], Iterable[dict[str, Any]]]
    notes: Callable[[Workbench], Notes]
    covers: Callable[[Workbench], list[Any]] = _no_parts
    base: Callable[[Workbench], Base] = _the_base


def training_step(name: str, stage: str, reads: tuple[str, ...], training: Training) -> Step:
    """A step that trains a fresh LoRA on the base."""

    def covers(bench: Workbench) -> list[Any]:
        settings = training.settings(bench.config)
        return [covered(settings), bench.config.seed, training.base(bench).identity, *training.covers(bench)]

    def train(bench: Workbench, mark: Mark) -> Facts:
        from tosslm.training.labels import write_training_rows

        recipe = training.recipe(bench)
        anchored = recipe.anchor_weight > 0
        rows = write_training_rows(
            mark.work / _ROWS,
            training.rows(bench),
            anchored=anchored,
            weighed=recipe.weighed,
            placed=recipe.token_loss is not None,
            numbered=recipe.hook is not None,
        )
        if team := current():
            team.give({"step": name, "work": str(mark.work)})
        return fit(bench, recipe, rows, mark.work)

    def join(bench: Workbench, work: Path) -> None:
        from tosslm.training.labels import read_training_rows

        fit(bench, training.recipe(bench), read_training_rows(work / _ROWS), work)

    def fit(bench: Workbench, recipe: Recipe, rows: Dataset, work: Path) -> Facts:
        from tosslm.training.train import train_adapter

        team = current()
        with team.together() if team else nullcontext():
            return train_adapter(
                training.base(bench),
                rows,
                recipe,
                name=name,
                work=work,
                out=bench.layout.of(name),
                notes=training.notes(bench),
                reporter=bench.reporter,
                trackers=Trackers(bench.config.report_to, bench.layout.tracker_logs),
                together=team is not None,
            )

    return Step(name, stage, 2, reads, train, covers, join=join)
