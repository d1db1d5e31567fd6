"""Progress of long stages: a bar on a terminal, plain lines elsewhere; always on standard error."""

from __future__ import annotations

import io
import os
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol, TextIO, cast

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeRemainingColumn,
)

from tosslm.outward import outward

LINE_SECONDS = 15.0


class Task(Protocol):
    """One long stage that tells how far it is."""

    def advance(self, steps: int, tokens: int, note: str = "") -> None:
        """Say that ``steps`` more are done, in which ``tokens`` were read; ``note`` is shown beside them."""


class Reporter(Protocol):
    """Where progress and remarks go."""

    def task(self, name: str, total: int) -> AbstractContextManager[Task]:
        """Announce a stage of ``total`` steps; 0 where nobody knows how many there will be."""

    def say(self, text: str) -> None:
        """Print a remark."""


class _BarTask:
    def __init__(self, bar: Progress, name: str, total: int) -> None:
        self._bar, self._tokens, self._start = bar, 0, time.monotonic()
        self._id = bar.add_task(escape(outward(name)), total=total or None, speed="", note="")

    def advance(self, steps: int, tokens: int, note: str = "") -> None:
        self._tokens += tokens
        speed = _speed(self._tokens, self._start)
        self._bar.update(self._id, advance=steps, speed=speed, note=escape(outward(note)), refresh=True)


class _LineTask:
    def __init__(self, console: Console, name: str, total: int) -> None:
        self._console, self._name, self._total = console, name, total
        self._done, self._tokens, self._start = 0, 0, time.monotonic()
        self._next = self._start + LINE_SECONDS

    def advance(self, steps: int, tokens: int, note: str = "") -> None:
        self._done += steps
        self._tokens += tokens
        now = time.monotonic()
        if now < self._next and (self._done < self._total or not self._total):
            return
        self._next = now + LINE_SECONDS
        parts = [f"{self._done}", _speed(self._tokens, self._start), note]
        if self._total:
            left = (now - self._start) / max(self._done, 1) * (self._total - self._done)
            parts = [f"{self._done}/{self._total}", *parts[1:], f"{left:.0f} s left"]
        line = f"{self._name}: " + ", ".join(part for part in parts if part)
        self._console.print(outward(line), highlight=False, markup=False)


def _speed(tokens: int, start: float) -> str:
    return f"{tokens / max(time.monotonic() - start, 1e-9):,.0f} tokens/s" if tokens else ""


class ConsoleReporter:
    """Reports to a console.

    Args:
        console: where to; standard error by default.
    """

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True, soft_wrap=True)

    @contextmanager
    def task(self, name: str, total: int) -> Iterator[Task]:
        """A bar on a terminal, a line every 15 seconds elsewhere."""
        if not self._console.is_terminal:
            yield _LineTask(self._console, name, total)
            return
        columns = (
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[speed]}"),
            TextColumn("{task.fields[note]}"),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=self._console) as bar:
            yield _BarTask(bar, name, total)

    def say(self, text: str) -> None:
        """Print a remark."""
        self._console.print(outward(text), highlight=False, markup=False)


class SilentReporter:
    """Reports nothing; for use as a library."""

    @contextmanager
    def task(self, name: str, total: int) -> Iterator[Task]:
        """Nothing is shown."""
        yield self

    def advance(self, steps: int, tokens: int, note: str = "") -> None:
        """Nothing is shown."""

    def say(self, text: str) -> None:
        """Nothing is shown."""


@contextmanager
def logged(reporter: Reporter, path: Path) -> Iterator[Reporter]:
    """A reporter that also writes to a file, line by line, what it is told; the file grows from run to run."""
    with _appended(path) as file:
        dated = cast(TextIO, _Dated(file))
        yield _Logged(reporter, Console(file=dated, soft_wrap=True, width=1000, force_terminal=False))


def _appended(path: Path) -> TextIO:
    """The end of a file, which no link leads elsewhere."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_symlink():
        path.unlink()
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "w", buffering=1, encoding="utf-8")


class _Logged:
    """Hands on to another reporter, and writes plain lines to a console of its own."""

    def __init__(self, reporter: Reporter, console: Console) -> None:
        self._reporter, self._console = reporter, console

    @contextmanager
    def task(self, name: str, total: int) -> Iterator[Task]:
        with self._reporter.task(name, total) as shown:
            yield _BothTasks(shown, _LineTask(self._console, name, total))

    def say(self, text: str) -> None:
        self._reporter.say(text)
        self._console.print(outward(text), highlight=False, markup=False)


class _BothTasks:
    def __init__(self, *tasks: Task) -> None:
        self._tasks = tasks

    def advance(self, steps: int, tokens: int, note: str = "") -> None:
        for task in self._tasks:
            task.advance(steps, tokens, note)


class _Dated(io.TextIOBase):
    """Begins each line with the time, UTC."""

    def __init__(self, file: TextIO) -> None:
        self._file = file

    def write(self, text: str) -> int:
        if text.strip():
            self._file.write(f"{datetime.now(UTC).isoformat(timespec='seconds')} {text}")
        return len(text)

    def flush(self) -> None:
        if not self._file.closed:  # the garbage collector closes this one after its file
            self._file.flush()
