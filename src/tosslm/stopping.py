"""Ctrl-C and SIGTERM for the command line: noted at once, obeyed between two pieces of work.

An exception that is raised while Python collects garbage, or in a callback of a library, is swallowed. So the first
signal is only noted; progress asks for it. Where nothing asks for a while, and at a second signal, it is raised.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from tosslm.progress import Reporter, Task

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
PATIENCE = 3.0


class Stopping:
    """Whether the process has been asked to stop.

    Attributes:
        noted: the signal that did; None until then.
    """

    def __init__(self) -> None:
        self.noted: int | None = None
        self._ended = threading.Event()

    def check(self) -> None:
        """Stop here, if that is wished.

        Raises:
            KeyboardInterrupt: it is.
        """
        if self.noted is not None:
            raise KeyboardInterrupt

    def obeyed(self) -> bool:
        """Whether a signal came that ended work which has no other end, such as serving; it is then done with."""
        came, self.noted = self.noted is not None, None
        if came:
            self._ended.set()
        return came

    @property
    def status(self) -> int:
        """The exit status: 128 and the signal's number."""
        return 128 + (self.noted or signal.SIGINT)

    @contextmanager
    def handled(self) -> Iterator[None]:
        """Note signals while the block runs; where handlers cannot be set, in a thread, they stay as they are."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        # What is ignored stays so: a shell has its background jobs ignore Ctrl-C, which is meant for others.
        ours = [number for number in _SIGNALS if signal.getsignal(number) != signal.SIG_IGN]
        before = {number: signal.signal(number, self._handle) for number in ours}
        try:
            yield
        finally:
            self._ended.set()
            for number, handler in before.items():
                signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.noted is None:
            self.noted = number
            threading.Thread(target=self._insist, args=(threading.get_ident(),), daemon=True).start()
        elif not self._ended.is_set():
            raise KeyboardInterrupt

    def _insist(self, thread: int) -> None:
        """Signal again, for as long as nothing came of it: one exception may be swallowed."""
        while not self._ended.wait(PATIENCE):
            signal.pthread_kill(thread, self.noted or signal.SIGINT)


class StoppableReporter:
    """Hands on to another reporter, and stops the work where that is wished.

    Args:
        reporter: the other.
        stopping: what is asked.
    """

    def __init__(self, reporter: Reporter, stopping: Stopping) -> None:
        self._reporter, self._stopping = reporter, stopping

    @contextmanager
    def task(self, name: str, total: int) -> Iterator[Task]:
        """A task that stops where it advances."""
        self._stopping.check()
        with self._reporter.task(name, total) as task:
            yield _StoppableTask(task, self._stopping)
        self._stopping.check()

    def say(self, text: str) -> None:
        """Print a remark."""
        self._stopping.check()
        self._reporter.say(text)


class _StoppableTask:
    def __init__(self, task: Task, stopping: Stopping) -> None:
        self._task, self._stopping = task, stopping

    def advance(self, steps: int, tokens: int, note: str = "") -> None:
        self._task.advance(steps, tokens, note)
        self._stopping.check()
