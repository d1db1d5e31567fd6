"""Scoring in the trackers that trainings log to: TensorBoard, Weights & Biases, Trackio, MLflow."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tosslm.errors import InputError

if TYPE_CHECKING:
    from accelerate.tracking import GeneralTracker

Log = Callable[[Mapping[str, float], int], None]


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
    from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK

    known = tracking.LOGGER_TYPE_TO_CLASS.keys() & INTEGRATION_TO_CALLBACK.keys()
    installed = {tracker.value for tracker in tracking.get_available_trackers()}
    for tracker in report_to:
        if tracker not in known:
            raise InputError(f"report_to: {tracker!r} is unknown; choose from {', '.join(sorted(known))}")
        if tracker not in installed:
            raise InputError(f"report_to: {tracker} is not installed; install its package, or leave it out")


@contextmanager
def tracked(trackers: Trackers, name: str) -> Iterator[Log]:
    """Open trackers for a stage that is no training.

    Args:
        trackers: which, and where they write.
        name: of the stage.

    Yields:
        A function that logs values at a step to all of them.
    """
    if trackers.names:
        from accelerate import PartialState

        PartialState()  # trackers ask it whether they are the main process
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

    known = tracking.LOGGER_TYPE_TO_CLASS[tracker]
    started = known(name, str(folder)) if known.requires_logging_directory else known(name)
    started.start()
    return started
