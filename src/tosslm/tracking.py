"""Scoring in the trackers that trainings log to: TensorBoard, Weights & Biases, Trackio, MLflow."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from accelerate import PartialState, tracking

from tosslm.errors import InputError

Log = Callable[[Mapping[str, float], int], None]


@contextmanager
def tracked(report_to: Sequence[str], name: str, folder: Path) -> Iterator[Log]:
    """Open trackers for a stage that is no training.

    Args:
        report_to: names of trackers, such as ``tensorboard``; none of them logs nowhere.
        name: of the stage.
        folder: where trackers that write files put them.

    Yields:
        A function that logs values at a step to all of them.

    Raises:
        InputError: a tracker is unknown or not installed.
    """
    if report_to:
        PartialState()  # trackers ask it whether they are the main process
    trackers = [_start(tracker, name.replace("/", "-"), folder) for tracker in report_to]

    def log(values: Mapping[str, float], step: int) -> None:
        for tracker in trackers:
            tracker.log(dict(values), step=step)

    try:
        yield log
    finally:
        for tracker in trackers:
            tracker.finish()


def _start(tracker: str, name: str, folder: Path) -> tracking.GeneralTracker:
    known = tracking.LOGGER_TYPE_TO_CLASS
    if tracker not in known:
        raise InputError(f"report_to: {tracker!r} is unknown; choose from {', '.join(sorted(known))}")
    place = (name, str(folder)) if known[tracker].requires_logging_directory else (name,)
    try:
        started = known[tracker](*place)
        started.start()
    except ImportError as error:
        raise InputError(f"report_to: {tracker} is not installed ({error}); install it, or leave it out") from None
    return started
