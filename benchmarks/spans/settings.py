"""The runs of the spans benchmark: which sets, which seeds, which config."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.spans import toxic

ROOT = Path("runs/spans")
SEEDS = (0, 1, 2)


@dataclass(frozen=True, slots=True)
class Corpus:
    """A custom set whose unsafe spans are known.

    Attributes:
        title: what the page calls it.
        write_sets: writes ``custom``, ``harmful`` and ``utility`` into a folder, for a seed.
        references: the section of that name in the run's config.
    """

    title: str
    write_sets: Callable[[Path, int], None]
    references: Mapping[str, Any]


CORPORA = {
    "toxic": Corpus(
        "Toxic Spans",
        toxic.write_sets,
        {"learning_rate": 1.0e-3, "epochs": 1, "batch_size": 16, "micro_batch_size": 4, "holdout": 0.2},
    ),
}


def run_folder(corpus: str, seed: int) -> Path:
    """Where a run of the benchmark lies."""
    return ROOT / corpus / f"seed-{seed}"


def run_config(corpus: str, seed: int) -> dict[str, Any]:
    """The config of one run, its three sets written."""
    folder = run_folder(corpus, seed)
    CORPORA[corpus].write_sets(folder / "sets", seed)
    return {
        "run_dir": str(folder / "run"),
        "seed": seed,
        "data": {name: {"path": str(folder / "sets" / f"{name}.jsonl")} for name in ("custom", "harmful", "utility")},
        "references": {
            "lora": {"target_modules": "all-linear"},
            "lr_scheduler": "linear",
            "warmup_steps": 3,
            **CORPORA[corpus].references,
        },
        "selection": {"evidence": "posterior"},
    }
