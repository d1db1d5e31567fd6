"""What an anchor costs: time and peak memory of anchored against plain selective fine-tuning.

    python benchmarks/anchor.py [--repeats 5] [--rows 48]

Every training is a process of its own, on the demo's rows with a tenth of the response tokens dropped at random, and
the kinds take turns, so that a drift of the machine's speed falls on all of them. Time is that of the training alone,
peak memory the process's largest resident set. Ratios are between neighbours in time. The sweep's page shows them.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

import tosslm
from tosslm.cli import quiet_libraries
from tosslm.config import ModelConfig, TrainingConfig
from tosslm.data.rows import BadRow, read_rows
from tosslm.files import write_json
from tosslm.model.base import open_base
from tosslm.training.fine_tune import fine_tune
from tosslm.training.labels import anchored_tokens, training_row
from tosslm.training.train import Recipe

COST = Path("runs/anchor/cost.json")
DISCARD = 0.1
KINDS: dict[str, int | None] = {"plain": None, "anchor_first 0": 0, "anchor_first 5": 5}
SETTINGS = {"learning_rate": 5e-4, "epochs": 1, "batch_size": 8, "micro_batch_size": 4}


def train(kind: str, count: int) -> dict[str, float]:
    """Train one kind in this process: seconds and peak memory."""
    quiet_libraries()
    first, base = KINDS[kind], open_base(ModelConfig.model_validate({}))
    found = read_rows(["examples/demo/data/custom.jsonl"])
    messages = [{"messages": row.messages} for row in found if not isinstance(row, BadRow)][:count]
    rng, rows = np.random.default_rng(0), []
    for row in tosslm.tokenize_rows(messages, base.tokenizer):
        keep = rng.random(sum(row["response_mask"])) >= DISCARD
        anchored = None if first is None else anchored_tokens(keep, np.arange(len(keep)), first)
        rows.append(training_row(row["input_ids"], row["response_mask"], keep, anchored))
    _ = base.model
    recipe = Recipe(TrainingConfig.model_validate(SETTINGS), seed=0, anchor_weight=0.0 if first is None else 1.0)
    with tempfile.TemporaryDirectory() as folder:
        facts = fine_tune(base, rows, recipe, out=Path(folder) / "adapter", work=Path(folder) / "work")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"seconds": facts["tokens"] / facts["tokens_per_second"], "peak": peak}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--rows", type=int, default=48)
    parser.add_argument("--kind", choices=list(KINDS), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.kind:
        print(json.dumps(train(arguments.kind, arguments.rows)))
        return
    measured: dict[str, list[dict[str, float]]] = {kind: [] for kind in KINDS}
    for _ in range(arguments.repeats):
        for kind, results in measured.items():
            command = [sys.executable, __file__, "--kind", kind, "--rows", str(arguments.rows)]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            results.append(json.loads(done.stdout.splitlines()[-1]))
            print(f"{kind}: {results[-1]['seconds']:.1f} s, {results[-1]['peak'] / 1e9:.2f} GB", flush=True)
    ratios = {
        f"{kind}, {what}": [own[what] / plain[what] for own, plain in zip(results, measured["plain"], strict=True)]
        for kind, results in measured.items()
        if kind != "plain"
        for what in ("seconds", "peak")
    }
    for name, values in ratios.items():
        median = statistics.median(values)
        print(f"{name} against plain: {median:.2f} ({min(values):.2f} to {max(values):.2f}, {len(values)} pairs)")
    write_json(COST, {"rows": arguments.rows, "measured": measured, "ratios": ratios})


if __name__ == "__main__":
    main()
