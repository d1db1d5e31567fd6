"""What diagnosis, comparison, refinement and training leave in a run folder, made without a model."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

import tosslm
from tosslm.files import write_json, write_parquet
from tosslm.runs.tables import DROPPED_SCHEMA, POSITIONS_SCHEMA

METHODS = ("base", "sft", "toss", "toss-pro", "toss-pro-posterior")


def spread(mean: float) -> dict[str, Any]:
    """A mean with its interval, as the diagnosis and the comparison write it."""
    return {"mean": mean, "low": mean - 0.3, "high": mean + 0.3, "n": 9}


def add_sections(run: tosslm.Run) -> tosslm.Run:
    """The run with every section that a report can have; its second round has the scores of the first."""
    manifest, path = run.manifest, run.path
    step = {"fingerprint": "1" * 16, "inputs": {}, "files": {}, "seconds": 2.0}
    losses = [[i + 1, 3 - i / 40] for i in range(30)]
    names = ("references/utility", "references/degraded/round-0", "model")
    trained = {"steps": 30, "first_loss": 3.0, "last_loss": 2.3, "tokens_per_second": 100.0, "losses": losses}
    manifest["stages"] |= dict.fromkeys(names, step | trained)
    manifest["stages"] |= dict.fromkeys(("scores/round-1", "diagnosis"), step)
    manifest["stages"]["refinement/round-1"] = step | {"joined": 2, "samples": 2}
    manifest["config"]["refinement"]["rounds"] = 1
    shutil.copytree(path / "scores/round-0", path / "scores/round-1")
    write_json(path / "refinement/round-1.json", {"row_ids": run.rows["row_id"][:2]})
    write_json(path / "manifest.json", manifest)
    _write_diagnosis(run)
    add_standard(run)
    records = [
        {
            "method": method,
            "seed": None,
            "metrics": {
                "refusal_rate": {"value": 0.9 - i / 1000, "low": 0.8, "high": 0.95, "n": 50},
                "utility_loss": {"value": 3 + i / 1000, "low": 2.9, "high": 3.1, "n": 50},
            },
        }
        for i, method in enumerate(METHODS)
    ]
    write_json(path / "compare/results.json", {"format": 1, "records": records})
    return tosslm.load_run(path)


def add_standard(run: tosslm.Run) -> None:
    """Plain fine-tuning of the run's data, trained and diagnosed by a comparison."""
    inputs = {name: run.folder.print_of(name) for name in ("data", "references/degraded/round-0")}
    folder = run.layout.compared_curves
    _write_positions(folder, ("degraded", "sft"), seed=1)
    means = {name: _means("degraded", "sft") for name in ("harmful", "utility")}
    write_json(folder / "diagnosis.json", {"format": 1, "inputs": inputs, "means": means, "causes": None})
    write_json(run.layout.method("sft", run.config.seed) / "manifest.json", run.manifest)


def _write_positions(folder: Path, models: Sequence[str], seed: int) -> None:
    rng = np.random.default_rng(seed)
    curves = product(("harmful", "utility"), models, ("kl", "shift"), range(20))
    points = [[*key, *(rng.random() * np.array([1, 0.8, 1.2])).tolist(), 9] for key in curves]
    positions = dict(zip(POSITIONS_SCHEMA.names, zip(*points, strict=True), strict=True))
    write_parquet(folder / "positions.parquet", positions, POSITIONS_SCHEMA, "made")


def _means(*models: str) -> dict[str, Any]:
    own = {name: {"loss": spread(3.0), "kl": spread(0.4), "shift": spread(-0.2)} for name in models}
    return own | {"base": {"loss": spread(4.0)}}


def _write_diagnosis(run: tosslm.Run) -> None:
    folder = run.path / "diagnosis"
    _write_positions(folder, ("degraded", "model"), seed=0)
    classes = ("function word", "content word", "punctuation")
    dropped = dict(
        zip(DROPPED_SCHEMA.names, (["class"] * 3, classes, [90] * 3, [9, 5, 1], [0.5, -0.5, 0]), strict=True)
    )
    write_parquet(folder / "dropped.parquet", dropped, DROPPED_SCHEMA, "made")
    of_model = {"harm_learnt": spread(4.0), "refusals_forgotten": spread(-1.0)}
    first = [
        {"first": n, "masked": n / 50, "of_dropped": n / 60, "of_positive_score": n / 40, "of_unsafe": n / 30}
        | {"of_shift": n / 25}
        for n in range(1, 21)
    ]
    facts = {
        "format": 1,
        "rows": {"harmful": 9, "utility": 9},
        "positions": 20,
        "adapters": {},
        "means": {name: _means("model", "degraded") for name in ("harmful", "utility")},
        "causes": {"prompts": 9, "refused": 9, "tokens": 16, "models": {"model": of_model}},
        "selection": {"masked": 0.1, "of_unsafe": 0.3},
        "first_tokens": first,
    }
    write_json(folder / "diagnosis.json", facts)
