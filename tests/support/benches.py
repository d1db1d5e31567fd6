"""Stages by themselves, on a run folder that a test has made."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from tosslm.config import load_config
from tosslm.progress import SilentReporter
from tosslm.runs.folder import RunFolder
from tosslm.runs.recorded import Mark
from tosslm.stages.decided import decisions_cover
from tosslm.stages.select import select
from tosslm.workbench import Workbench

SETS = {name: {"path": f"{name}.jsonl"} for name in ("custom", "harmful", "utility")}


def bench_of(folder: Path, base: Any = None, **sections: Any) -> Workbench:
    """A workbench on a folder; without a base it serves the stages that need none.

    Args:
        folder: the run folder.
        base: the base.
        sections: of the config; of ``selection`` what is not given is as in the paper.
    """
    paper = {"discard_fraction": 0.1, "evidence": "token"}
    selection = {"selection": paper | sections.get("selection", {})}
    config = load_config({"run_dir": str(folder), "data": SETS} | sections | selection)
    tokenizer: Any = None
    return Workbench(config, RunFolder(folder), base, tokenizer, SilentReporter())


def mark_of(folder: Path, name: str, fingerprint: str = "x") -> Mark:
    """What a step is known by, chosen by hand."""
    return Mark(name, fingerprint, {}, (name,), [], folder / ".work" / name)


def selection_mark(bench: Workbench, fingerprint: str = "x") -> Mark:
    """The same of a selection, which covers people's decisions."""
    return replace(mark_of(bench.folder.path, "selection", fingerprint), covered=decisions_cover(bench))


def select_in(folder: Path, *, seed: int = 0, fingerprint: str = "x", **selection: Any) -> dict[str, Any]:
    """Select tokens of a folder that has the custom set and scores of round 0; facts for the manifest."""
    bench = bench_of(folder, seed=seed, selection=selection)
    return dict(select(bench, selection_mark(bench, fingerprint)))
