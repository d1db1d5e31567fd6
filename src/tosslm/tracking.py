"""Figures of trainings and scoring for trackers: TensorBoard, Weights & Biases, Trackio, MLflow.

Figures alone: transformers' own callbacks for trackers upload checkpoints as well, where a variable of the
environment asks for it or does not forbid it, and those of a degraded reference are never to leave the run folder.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tosslm.errors import InputError

if TYPE_CHECKING:
    from accelerate.tracking import GeneralTracker

Log = Callable[[Mapping[str, float], int], None]
KNOWN = ("mlflow", "tensorboard", "trackio", "wandb")
PROJECT = "tosslm"
"""What trackers call the runs of all steps together, unless a variable of theirs says otherwise."""


@dataclass(frozen=True, slots=True)
class Trackers:
    """Where a step logs to.

    Attributes:
        names: of trackers, such as ``tensorboard``; none of them logs nowhere.
        folder: where trackers that write files put them; None is where they choose.
    """

    names: Sequence[str] = ()
    folder: Path | None = None


def check_trackers(report_to: Sequence[str]) -> None:
    """Refuse at the door what the first training would stumble over.

    Raises:
        InputError: a tracker is unknown or not installed.
    """
    if not report_to:
        return
    from accelerate import tracking

    installed = {tracker.value for tracker in tracking.get_available_trackers()}
    for tracker in report_to:
        if tracker not in KNOWN:
            raise InputError(f"report_to: {tracker!r} is unknown; choose from {', '.join(KNOWN)}")
        if tracker not in installed:
            raise InputError(f"report_to: {tracker} is not installed; install its package, or leave it out")


@contextmanager
def tracked(trackers: Trackers, name: str) -> Iterator[Log]:
    """Open trackers for a step; of several processes, in the first alone.

    Args:
        trackers: which, and where they write.
        name: of the step.

    Yields:
        A function that logs values at a step to all of them.
    """
    started: list[GeneralTracker] = []
    if trackers.names:
        from accelerate import PartialState

        if PartialState().is_main_process:
            started = [_start(tracker, name.replace("/", "-"), trackers.folder) for tracker in trackers.names]

    def log(values: Mapping[str, float], step: int) -> None:
        for tracker in started:
            tracker.log(dict(values), step=step)

    try:
        yield log
    finally:
        for tracker in started:
            tracker.finish()


def _start(tracker: str, name: str, folder: Path | None) -> GeneralTracker:
    from accelerate import tracking

    kind = tracking.LOGGER_TYPE_TO_CLASS[tracker]
    if kind.requires_logging_directory:
        started = kind(name, os.environ.get("TENSORBOARD_LOGGING_DIR") or str(folder or "."))
    elif tracker == "mlflow":
        started = kind(PROJECT, run_name=name)
    else:
        started = kind(os.environ.get(f"{tracker.upper()}_PROJECT") or PROJECT, name=name)
    started.start()
    return started
