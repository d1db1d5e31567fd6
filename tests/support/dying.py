"""A process that dies in the midst of a long stage, as far as the stage can tell."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from tosslm.progress import SilentReporter, Task


class KilledError(Exception):
    """Raised where a kill would come."""


class DyingReporter(SilentReporter):
    """Reports nothing, and dies once so many steps of a task are done.

    Args:
        at: how many.
    """

    def __init__(self, at: int) -> None:
        self._at, self._done = at, 0

    @contextmanager
    def task(self, name: str, total: int) -> Iterator[Task]:
        self._done = 0
        yield self

    def advance(self, steps: int, tokens: int, note: str = "") -> None:
        self._done += steps
        if steps and self._done >= self._at:
            raise KilledError
