"""The runs of the proxy study: two real models, each as the base, on the demo's rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

ROOT = Path("runs/proxy")
RESULTS = Path(__file__).parent / "results.json"
SETS = ("custom", "harmful", "utility")
EVERY = {"custom": 2, "harmful": 4, "utility": 4}
"""Of each set every so many-th row is taken, so that one core is done in minutes."""
SMOLLM2, GEMMA = "SmolLM2-135M-Instruct", "Gemma-3-270M"
MODELS = (SMOLLM2, GEMMA)
PAIRS = ((GEMMA, SMOLLM2), (SMOLLM2, GEMMA))
"""Base and proxy."""


def write_sets() -> None:
    """The demo's rows, thinned out."""
    (ROOT / "sets").mkdir(parents=True, exist_ok=True)
    for name, step in EVERY.items():
        lines = Path(f"examples/demo/data/{name}.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
        (ROOT / "sets" / f"{name}.jsonl").write_text("".join(lines[::step]), encoding="utf-8")


def run_config(model: str, gemma: Path) -> dict[str, Any]:
    """The demo's config with a model as the base, without rounds and held-out rows.

    Args:
        model: one of ``MODELS``.
        gemma: the folder of Gemma.
    """
    config: dict[str, Any] = yaml.safe_load(Path("configs/demo.yaml").read_text(encoding="utf-8"))
    if model == GEMMA:
        config["model"] = {"name": str(gemma)}
    config["references"] |= {"holdout": 0.0, "micro_batch_size": 2}
    data = {name: {"path": str(ROOT / "sets" / f"{name}.jsonl")} for name in SETS}
    selection = {"evidence": "token", "discard_fraction": 0.1}
    return config | {"run_dir": str(ROOT / model), "data": data, "refinement": {"rounds": 0}, "selection": selection}
