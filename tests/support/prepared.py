"""A run that waits for its scores."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import tosslm
from conftest import demo_rows, write_rows

Prepared = tuple[dict[str, Any], dict[str, str]]
"""The config of a run whose references are trained, and the checksums of its scores by one process."""


def prepare(folder: Path, tiny_model_folder: Path) -> Prepared:
    """24 rows, one a part, and held-out rows: 25 files of scores a round."""
    for name, count in (("custom", 24), ("harmful", 10), ("utility", 10)):
        write_rows(folder / f"{name}.jsonl", demo_rows(name, count))
    training = {"learning_rate": 0.01, "epochs": 1, "batch_size": 4, "micro_batch_size": 2}
    config = {
        "run_dir": str(folder / "run"),
        "model": {"name": str(tiny_model_folder), "dtype": "float32", "device": "cpu"},
        "data": {name: {"path": str(folder / f"{name}.jsonl")} for name in ("custom", "harmful", "utility")},
        "references": {**training, "holdout": 0.2},
        "scoring": {"batch_tokens": 512, "rows_per_part": 1},
        "selection": {"evidence": "token", "discard_fraction": 0.1},
        "finetune": training,
    }
    tosslm.run(config, until="references")
    alone = folder / "alone"
    shutil.copytree(folder / "run", alone)
    scored = tosslm.run({**config, "run_dir": str(alone)}, until="score")
    return config, scored.stages["scores/round-0"]["files"]
