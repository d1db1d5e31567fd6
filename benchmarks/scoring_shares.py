"""Where scoring spends its time, by kind of operation, as torch's profiler sees it on a few rows.

python -m benchmarks.scoring_shares --data gsm8k_train.jsonl.gz --dtype bfloat16 --threads 1 --json out.json
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import torch
from benchmarks.scoring import begin, commit, processor, random_adapters

import tosslm
from tosslm.model.adapters import attached_adapters
from tosslm.quiet import quiet_libraries

KINDS = {
    "linear layers, head and adapters": ("aten::mm", "aten::addmm"),
    "attention": ("aten::bmm", "aten::_softmax", "aten::masked_fill_", "aten::_scaled_dot_product"),
    "softmax over the vocabulary": ("aten::_log_softmax", "aten::gather"),
    "activation": ("aten::silu",),
}
REST = "norms, rotary embeddings, residuals, copies"


def shares(events: Any) -> dict[str, float]:
    """Of the processor's time, by kind."""
    found = dict.fromkeys([*KINDS, REST], 0.0)
    for event in events:
        kind = next((kind for kind, names in KINDS.items() if event.key.startswith(names)), REST)
        found[kind] += event.self_cpu_time_total
    total = sum(found.values())
    return {kind: time / total for kind, time in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data")
    parser.add_argument("--model")
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    quiet_libraries()
    if args.threads:
        torch.set_num_threads(args.threads)
    base, rows = begin(args)
    with tempfile.TemporaryDirectory() as scratch:
        folders = random_adapters(base, Path(scratch))
        with attached_adapters(base, folders) as model:
            tosslm.response_losses(model, rows[:2])
            with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
                tosslm.response_losses(model, rows)
    found = {
        "rows": len(rows),
        "dtype": args.dtype,
        "threads": torch.get_num_threads(),
        "processor": processor(),
        "commit": commit(),
        "shares": shares(profile.key_averages()),
    }
    print(json.dumps(found, indent=2))
    if args.json:
        args.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
