"""Which code and which base a study's figures come from."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
WRITTEN = ("studies/frontier/results", "studies/*/results.json", "studies/spans/*.json", "benchmarks/results")
NO_CODE = ("docs", "tests", "**/*.md", "studies/safety/attack.json", *WRITTEN)
"""What no figure depends on: texts, tests, and what studies write themselves. A change there is none of the code."""


@cache
def code_version(folder: Path = HERE) -> str | None:
    """The newest commit that changed any code, ``-dirty`` where tracked files of it have changes; None outside git.

    So what a page or a file of results adds to the history takes nothing from figures that are there. Asked once a
    process, since that is when the code was read.

    Args:
        folder: in the repository's work tree.
    """
    code = [":/", *(f":(top,exclude,glob){path}" for path in NO_CODE)]
    try:
        commit = _git(folder, "rev-list", "-1", "HEAD", "--", *code)
        dirty = _git(folder, "status", "--porcelain", "--untracked-files=no", "--", *code)
    except (OSError, subprocess.CalledProcessError):
        return None
    return f"{commit}-dirty" if dirty else commit


def check_bases(results: Mapping[str, Mapping[int, Mapping[str, Any]]]) -> None:
    """Refuse results of different bases: figures of theirs do not stand side by side.

    Args:
        results: that are to stand in one table, by name and seed. Those of before bases were written down, which have
            no ``base``, go with any.

    Raises:
        SystemExit: names the bases, and what was measured with each.
    """
    known: dict[str, list[str]] = {}
    for name, seeds in results.items():
        for seed, line in seeds.items():
            if own := line.get("base"):
                known.setdefault(own, []).append(f"{name} (seed {seed})")
    if len(known) > 1:
        told = "; ".join(f"{identity[:12]}: {', '.join(names)}" for identity, names in known.items())
        raise SystemExit(
            f"results of different bases would stand in one table ({told}). Files or dtype of the base differ; "
            "measure the others again"
        )


def _git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout.strip()
