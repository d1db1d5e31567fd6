"""The command line: the commands of ``commands/``, in the order in which its help lists them."""

from __future__ import annotations

import io
import sys

from tosslm import team
from tosslm.commands.frame import FRAME, app

# isort: off
from tosslm.commands import running
from tosslm.commands import measuring
from tosslm.commands import handing
from tosslm.commands import looking

# isort: on
from tosslm.exits import end_at_once
from tosslm.terminal.arguments import with_home

__all__ = ["app", "handing", "looking", "main", "measuring", "running"]


def main() -> None:
    """Entry point of ``toss``; ``--debug`` anywhere shows tracebacks."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # what a terminal of another encoding cannot show it names
            stream.reconfigure(errors="backslashreplace")
    sys.argv[1:] = with_home(sys.argv[1:])
    if "--debug" in sys.argv:
        sys.argv.remove("--debug")
        FRAME.debug = True
    try:
        app()
    except SystemExit as end:
        if team.current() is None or not isinstance(end.code, int | None):
            raise
        end_at_once(end.code or 0)
