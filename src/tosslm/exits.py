"""How a command ends: one short paragraph, and a status that scripts can go by."""

from __future__ import annotations

import atexit
import errno
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import NoReturn

import typer
from rich.console import Console

from tosslm.errors import InputError, TosslmError
from tosslm.outward import outward
from tosslm.stopping import Stopping

_CLOSED_PIPE = 141  # as of a program that SIGPIPE ended
_NO_ROOM = {errno.ENOSPC, errno.EDQUOT}
_NO_ROOM_TEXT = "No space left on device"  # of libraries that keep no errno
_LONGEST_CHAIN = 10


@contextmanager
def reported(
    stopping: Stopping, *, debug: bool, failed: Callable[[int], int | None] = lambda status: None
) -> Iterator[None]:
    """Turn what goes wrong in the block into a message on standard error and an exit status.

    Args:
        stopping: whether a signal came.
        debug: print the traceback too; the status stays the same.
        failed: told the status; gives that of another process which has told the user, None where there is none.

    Raises:
        typer.Exit: with 1, 2, 130 after Ctrl-C, 143 after SIGTERM, or 141 where nobody reads what is printed.
    """
    try:
        with stopping.handled():
            yield
            sys.stdout.flush()
            stopping.check()
    except (typer.Exit, typer.Abort):
        raise
    except BrokenPipeError:
        _silence_stdout()
        raise typer.Exit(_CLOSED_PIPE) from None
    except (Exception, KeyboardInterrupt) as error:
        status, text = _end_of(error, stopping)
        if debug:
            for line in "".join(traceback.format_exception(error)).splitlines():
                _say(line)
        told = failed(status)
        if told is None:
            _say(f"toss: {text}")
        raise typer.Exit(status if told is None else told) from None


def end_at_once(status: int) -> NoReturn:
    """End the process without taking the interpreter down, after its exit handlers and with nothing left unwritten.

    Threads of a process group may still hold tensors, whose end needs the interpreter: where it is going, PyTorch
    aborts the process, and a run that is whole would end with SIGABRT (pytorch/pytorch#179291).
    """
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(status)


class PipeConsole(Console):
    """A console that says when nobody reads it any more; rich itself would end the process."""

    def on_broken_pipe(self) -> None:
        """Raise what `reported` waits for."""
        raise BrokenPipeError


def _say(line: str) -> None:
    Console(stderr=True, soft_wrap=True).print(outward(line), style="red", highlight=False, markup=False)


def _silence_stdout() -> None:
    """What is still to be flushed at the interpreter's end would complain on standard error."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _end_of(error: BaseException, stopping: Stopping) -> tuple[int, str]:
    if stopping.noted is not None or isinstance(error, KeyboardInterrupt):
        return stopping.status, "interrupted; the same command goes on from here"
    for cause in _chain(error):
        number, file = getattr(cause, "errno", None), getattr(cause, "filename", None)
        if number in _NO_ROOM or _NO_ROOM_TEXT in str(cause):
            where = f" for {file}" if file else ""
            return 1, f"no room on the disk{where}; make room there. What is done is kept: the same command goes on"
        if number == errno.ENAMETOOLONG:
            return 2, f"{str(file)[:80]}...: the name is too long for this disk; choose a shorter one"
    if isinstance(error, TosslmError):
        return 2 if isinstance(error, InputError) else 1, str(error)
    return 1, f"{type(error).__name__}: {error} (--debug shows where)"


def _chain(error: BaseException) -> Iterator[BaseException]:
    """An error, and what it came of."""
    link: BaseException | None = error
    for _ in range(_LONGEST_CHAIN):
        if link is None:
            return
        yield link
        link = link.__cause__ or link.__context__
