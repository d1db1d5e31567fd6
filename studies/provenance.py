"""Which code a study's figures come from."""

from __future__ import annotations

import subprocess
from functools import cache
from pathlib import Path

HERE = Path(__file__).parent
WRITTEN = ("docs", "studies/safety/results", "studies/frontier/results", "benchmarks/results")
"""What studies write themselves: a change there is no change of the code."""


@cache
def code_version(folder: Path = HERE) -> str | None:
    """The commit of the code in a folder, ``-dirty`` where tracked files have changes; None outside git.

    Asked once a process, since that is when the code was read.

    Args:
        folder: in the repository's work tree.
    """
    changed = [":/", *(f":(top,exclude){path}" for path in WRITTEN)]
    try:
        commit = _git(folder, "rev-parse", "HEAD")
        dirty = _git(folder, "status", "--porcelain", "--untracked-files=no", "--", *changed)
    except (OSError, subprocess.CalledProcessError):
        return None
    return f"{commit}-dirty" if dirty else commit


def _git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout.strip()
