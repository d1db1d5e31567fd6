"""The runs of the proxy study: two real models, each as the base, on sets whose unsafe text is known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from studies.spans.settings import corpus_of

ROOT = Path("runs/proxy")
RESULTS = Path(__file__).parent / "results.json"
SETS = ("custom", "harmful", "utility")
EVERY = {"custom": 2, "harmful": 4, "utility": 4}
"""Of each set of the demo every so many-th row is taken, so that one core is done in minutes."""
SMOLLM2, GEMMA = "SmolLM2-135M-Instruct", "Gemma-3-270M"
MODELS = (SMOLLM2, GEMMA)
PAIRS = ((GEMMA, SMOLLM2), (SMOLLM2, GEMMA))
"""Base and proxy."""
CORPORA = {"demo": "The demo", "spliced": "Spliced", "toxic-smaller": "Toxic Spans, a part"}
"""Sets of ``studies.spans``, each at its seed 0, and what the page calls them."""


def demo_sets() -> dict[str, Any]:
    """The demo's rows, thinned out, and the demo's config of them."""
    folder = ROOT / "demo/sets"
    folder.mkdir(parents=True, exist_ok=True)
    for name, step in EVERY.items():
        lines = Path(f"examples/demo/data/{name}.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
        (folder / f"{name}.jsonl").write_text("".join(lines[::step]), encoding="utf-8")
    config: dict[str, Any] = yaml.safe_load(Path("configs/demo.yaml").read_text(encoding="utf-8"))
    return config | {"data": {name: {"path": str(folder / f"{name}.jsonl")} for name in SETS}}


def run_config(corpus: str, model: str, gemma: Path) -> dict[str, Any]:
    """The config of a set with a model as the base, without rounds and held-out rows; its sets are written.

    Args:
        corpus: one of ``CORPORA``.
        model: one of ``MODELS``.
        gemma: the folder of Gemma.
    """
    config = demo_sets() if corpus == "demo" else corpus_of(corpus).config(ROOT / corpus, 0)
    if model == GEMMA:
        config["model"] = {"name": str(gemma)}
    config["references"] |= {"holdout": 0.0, "micro_batch_size": 2}
    selection = {"evidence": "token", "discard_fraction": 0.1}
    return config | {"run_dir": str(ROOT / corpus / model), "refinement": {"rounds": 0}, "selection": selection}
