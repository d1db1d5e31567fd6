"""Blocks of the pages, each run by a bash of its own as it stands."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from support.pages import Block, blocks, pages

SECONDS = 3600
"""That a block may take at most, on a machine that does other work too, with gigabytes to fetch."""


def marked(target: str) -> list[Block]:
    """The blocks that say of themselves that `make TARGET` runs them."""
    return [block for page in pages() for block in blocks(page) if block.target == target]


def beginning(among: list[Block], page: str, words: str) -> Block:
    """The one block of a page that begins with these words."""
    [found] = [block for block in among if block.page == page and block.code.startswith(words)]
    return found


def started(code: str, folder: Path, **variables: str) -> subprocess.Popen[str]:
    """A shell of its own, as in a terminal of its own, which stops at the first command that fails."""
    here = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        ["bash", "-e", "-c", f"{code}\n:"],  # else it would become its last command, and be no shell any more
        cwd=folder,
        env=os.environ | here | variables,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def bash(code: str, folder: Path, **variables: str) -> str:
    """What a shell said, which did all of it."""
    shell = started(code, folder, **variables)
    said, _ = shell.communicate(timeout=SECONDS)
    assert shell.returncode == 0, said
    return said
