"""A folder in which what the pages name exists: a config, data, models, an adapter."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from conftest import demo_rows, write_rows
from support.pages import ROOT

MODELS = ("Qwen/Qwen2.5-0.5B-Instruct", "HuggingFaceTB/SmolLM2-135M-Instruct", "some/other-instruct", "models/mine")
"""What pages call a model: here a folder of that name, the very small one."""


def config_of(model: Path, adapter: Path) -> dict[str, Any]:
    """A whole run with TOSS-Pro, anchors and an evaluation, seconds long."""
    training = {"learning_rate": 0.01, "epochs": 1, "batch_size": 4, "micro_batch_size": 2}
    return {
        "run_dir": "runs/my-run",
        "model": {"name": str(model), "adapter": str(adapter), "dtype": "float32", "device": "cpu"},
        "data": {name: {"path": f"data/{name}.jsonl"} for name in ("custom", "harmful", "utility")},
        "references": {**training, "holdout": 0.2},
        "selection": {"evidence": "token", "discard_fraction": 0.1},  # so few rows are no ground for a posterior
        "refinement": {"rounds": 1, "samples_per_round": 3},
        "finetune": {**training, "dropped": "anchor"},
        "evaluation": {**{name: {"path": "data/prompts.jsonl"} for name in ("harmful", "safe")}, "max_new_tokens": 8},
    }


def lay_out(folder: Path, model: Path, adapter: Path, **changed: dict[str, Any]) -> Path:
    """Make the folder, with sections of the config changed; no run is in it."""
    (folder / "data").mkdir(parents=True)
    for name, count in (("custom", 24), ("harmful", 10), ("utility", 10)):
        write_rows(folder / "data" / f"{name}.jsonl", demo_rows(name, count))
    write_rows(folder / "data/prompts.jsonl", demo_rows("prompts", 3))
    for name in ("configs", "examples"):
        (folder / name).symlink_to(ROOT / name)
    for name in (*MODELS, "../models/other"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).symlink_to(model)
    (folder / "adapters").mkdir()
    (folder / "adapters/mine").symlink_to(adapter)
    (folder / "toss.yaml").write_text(yaml.safe_dump(config_of(model, adapter) | changed))
    return folder
