"""Where what is made of a run may lie: nowhere in its folder, whose files are those of its steps."""

from __future__ import annotations

from pathlib import Path

from tosslm.errors import InputError
from tosslm.runs.reader import Run


def check_outside(run: Run, out: Path) -> None:
    """Refuse a place for something new that is taken, or lies in the run folder.

    Raises:
        InputError: it exists, or a later step would find it among its own files.
    """
    if out.exists():
        raise InputError(f"{out}: exists already; name a folder that does not")
    if out.resolve().is_relative_to(run.path.resolve()):
        raise InputError(f"{out}: lies in the run folder, where only its own steps write; name a folder outside it")
