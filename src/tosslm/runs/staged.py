"""Files of a step that shards have written, beside the run until its one writer takes them.

A shard takes no lock of the run, so it writes into a folder of its own that bears the step's fingerprint. What is
recorded in the manifest is touched by the writer alone: a shard that comes late or twice cannot change a byte of it.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING

from tosslm.files import atomic_path, is_whole, link_or_copy
from tosslm.runs.layout import Layout

if TYPE_CHECKING:
    from tosslm.runs.recorded import Mark


def make_stage(layout: Layout, mark: Mark) -> Path:
    """The folder where shards put files of a step, its owner's alone."""
    folder = layout.staged(mark.name, mark.fingerprint)
    for one in (layout.shards, folder.parent, folder):
        one.mkdir(mode=0o700, exist_ok=True)
    return folder


@contextmanager
def at_work(layout: Layout) -> Iterator[None]:
    """Be one of the shards at work: any number of processes; the operating system knows when one is gone."""
    import fcntl  # not on Windows, where the rest of a run works

    with _lock_file(layout) as lock:
        fcntl.flock(lock, fcntl.LOCK_SH)
        yield


def take(layout: Layout, mark: Mark, path: Path) -> bool:
    """Take a file that a shard wrote into the run, if there is one, whole and of this very step.

    Args:
        layout: of the run, whose writer this process is.
        mark: the step.
        path: where the file belongs.

    Returns:
        Whether it was taken.
    """
    staged = layout.staged(mark.name, mark.fingerprint) / path.name
    if not is_whole(staged, mark.fingerprint):
        return False
    # A link, not a move: a kill in between leaves the shard's file where it is.
    with atomic_path(path) as beside:
        link_or_copy(staged, beside)
    return True


def clear_stage(layout: Layout, step: str | None = None) -> bool:
    """Remove what shards left of a step, or of all, unless one is at work, whose half-written file lies there.

    Returns:
        Whether nothing is left.
    """
    folder = layout.staged(step) if step else layout.shards
    if not folder.exists():
        return True
    import fcntl

    with _lock_file(layout) as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        for left in [folder] if step else [one for one in folder.iterdir() if one.is_dir()]:
            shutil.rmtree(left, ignore_errors=True)
    return True


def _lock_file(layout: Layout) -> IO[bytes]:
    # Open for reading and writing: over NFS a shared lock needs the one, an exclusive lock the other.
    return os.fdopen(os.open(layout.shards / ".lock", os.O_RDWR | os.O_CREAT, 0o600), "r+b")
