"""What all commands share: the app, the arguments that many have, and the frame that each works in."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from tosslm import team
from tosslm.exits import PipeConsole, reported
from tosslm.stopping import StoppableReporter, Stopping

if TYPE_CHECKING:
    from tosslm.config import Config
    from tosslm.progress import Reporter
    from tosslm.runs.reader import Run

app = typer.Typer(
    help="Leave out the risky tokens, keep the rows: token-level data selection for safe LLM fine-tuning.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
)
SELECTED = ("data", "proxy", "scores", "refinement", "selection")
"""Beginnings of the steps whose files rows and masks are read from; others are not fetched from a URL for that."""

ConfigFile = Annotated[Path, typer.Argument(help="Config file (YAML).", show_default=False)]
RunOrConfig = Annotated[
    str, typer.Argument(help="Run folder, or its URL, or config file.", metavar="SOURCE", show_default=False)
]
RunFolder = Annotated[str, typer.Argument(help="Run folder, or its URL.", metavar="RUN", show_default=False)]
Overrides = Annotated[list[str] | None, typer.Option("--set", help="Override: a.b=value. May be repeated.")]
RunDir = Annotated[str | None, typer.Option("--run-dir", help="Run folder, instead of the config's.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result for machines.")]


@dataclass
class Frame:
    """What the process was told at its beginning, and whether it was asked to stop.

    Attributes:
        debug: whether errors show their tracebacks.
        stopping: of the command that is at work.
    """

    debug: bool = False
    stopping: Stopping = field(default_factory=Stopping)


FRAME = Frame()


@contextmanager
def reported_errors(*, alone: bool = True) -> Iterator[None]:
    """Errors as messages; a command that works ``alone`` refuses a launcher of several processes."""
    FRAME.stopping = Stopping()
    with reported(FRAME.stopping, debug=FRAME.debug, failed=team.failed):
        if alone:
            team.refuse_several()
        yield


def progress_here() -> Reporter:
    """What says how far work is; silent where another process of the team leads."""
    from tosslm.progress import ConsoleReporter, SilentReporter

    return StoppableReporter(ConsoleReporter() if team.place().leads else SilentReporter(), FRAME.stopping)


def config_of(source: str | Path, overrides: list[str] | None, run_dir: str | None) -> Config:
    """The config of a file, or of a run folder that goes on."""
    from tosslm.config import load_config
    from tosslm.remote import is_url
    from tosslm.runs.reader import load_run

    if is_url(str(source)) or Path(source).is_dir():
        return load_run(source, steps=()).config_to_go_on(overrides or (), run_dir=run_dir or str(source))
    return load_config(source, overrides or (), run_dir=run_dir)


def console_here() -> Console:
    """The terminal, or the pipe that stands for it."""
    return PipeConsole()


def with_run(path: str, work: Callable[[Run], Any], steps: Collection[str] | None = SELECTED) -> Any:
    """What some work makes of a run; of a URL only the files of ``steps`` are fetched."""
    from tosslm.runs.reader import load_run

    return work(load_run(path, steps=steps))
