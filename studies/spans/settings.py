"""The runs of the spans study: which sets, which seeds, which config."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import yaml
from studies.spans import spliced, toxic

ROOT = Path("runs/spans")
SEEDS = (0, 1, 2)
SETS = ("custom", "harmful", "utility")


@dataclass(frozen=True, slots=True)
class Corpus:
    """A custom set whose unsafe spans are known.

    Attributes:
        title: what the page calls it.
        config: the config of its run, without folder and seed; what a seed changes is written into the folder.
        judged: the sources that are judged; None is all of them.
    """

    title: str
    config: Callable[[Path, int], dict[str, Any]]
    judged: tuple[str, ...] | None = None


def _own_sets(
    write_sets: Callable[[Path, int], None], micro_batch_size: int, holdout: float = 0.2
) -> Callable[[Path, int], dict[str, Any]]:
    def config(folder: Path, seed: int) -> dict[str, Any]:
        write_sets(folder / "sets", seed)
        return {
            "data": {name: {"path": str(folder / "sets" / f"{name}.jsonl")} for name in SETS},
            "references": {
                "lora": {"target_modules": "all-linear"},
                "learning_rate": 1.0e-3,
                "lr_scheduler": "linear",
                "warmup_steps": 3,
                "epochs": 1,
                "batch_size": 16,
                "micro_batch_size": micro_batch_size,
                "holdout": holdout,
            },
        }

    return config


def _demo(_: Path, seed: int) -> dict[str, Any]:
    config: dict[str, Any] = yaml.safe_load(Path("configs/demo.yaml").read_text(encoding="utf-8"))
    return config | {"refinement": {"rounds": 1, "samples_per_round": 32}}


CORPORA = {
    "toxic": Corpus("Toxic Spans", _own_sets(toxic.write_sets, 4), judged=("test",)),
    "spliced": Corpus("Spliced", _own_sets(spliced.write_sets, 1)),
    "demo": Corpus("Demo", _demo),
}

_LESS = partial(toxic.write_sets, sentences=560, test_posts=400)
TRIALS = {"toxic-smaller": Corpus("Toxic Spans, smaller", _own_sets(_LESS, 16, holdout=0.3), judged=("test",))}
"""In a fourth of the time, for trials of evidence; no page tells of them."""


def corpus_of(name: str) -> Corpus:
    """By its name, whether a page tells of it or not."""
    return (CORPORA | TRIALS)[name]


def run_config(corpus: str, seed: int) -> dict[str, Any]:
    """The config of one run, its three sets written."""
    folder = ROOT / corpus / f"seed-{seed}"
    config = corpus_of(corpus).config(folder, seed)
    return config | {"run_dir": str(folder / "run"), "seed": seed, "selection": {"evidence": "posterior"}}
