"""Where scoring spends its time, by kind of operation, as torch's profiler sees it on a few rows.

OMP_NUM_THREADS=1 python -m benchmarks.scoring_shares --dtype bfloat16
"""

from __future__ import annotations

import argparse
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import torch
from benchmarks.measuring import Results, folder_of, left_out, parser_of
from benchmarks.scoring import FOLDER, begin, file_name, random_adapters
from benchmarks.scoring_page import ACTIVATION, PRODUCTS

import tosslm
from tosslm.model.adapters import attached_adapters
from tosslm.quiet import quiet_libraries

KINDS = {
    PRODUCTS: ("aten::mm", "aten::addmm"),
    "attention": ("aten::bmm", "aten::_softmax", "aten::masked_fill_", "aten::_scaled_dot_product"),
    "softmax over the vocabulary": ("aten::_log_softmax", "aten::gather"),
    ACTIVATION: ("aten::silu", "aten::gelu"),
}
"""What the operations of Llama and Gemma are for, by how their names begin; the rest is in ``REST``."""
BENCHED = [f"--dtype {dtype} {more}" for dtype in ("float32", "bfloat16") for more in ("", "--gemma")]
"""What `make bench` passes."""
REST = "norms, rotary embeddings, residuals, copies"


def shares(events: Any) -> dict[str, float]:
    """Of the processor's time, by kind."""
    found = dict.fromkeys([*KINDS, REST], 0.0)
    for event in events:
        kind = next((kind for kind, names in KINDS.items() if event.key.startswith(names)), REST)
        found[kind] += event.self_cpu_time_total
    total = sum(found.values())
    return {kind: time / total for kind, time in found.items()}


def measured(args: argparse.Namespace) -> dict[str, float]:
    """The shares of one reading of the rows."""
    base, rows = begin(args)
    with tempfile.TemporaryDirectory() as scratch:
        folders = random_adapters(base, Path(scratch))
        with attached_adapters(base, folders) as model:
            tosslm.response_losses(model, rows[:2])
            with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
                tosslm.response_losses(model, rows)
    return shares(profile.key_averages())


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--gemma", action="store_true", help="Gemma 3 270M, not the built-in SmolLM2-135M-Instruct")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    args = parser.parse_args()
    if left_out(args.dtype):
        return
    quiet_libraries()
    settings = {key: value for key, value in vars(args).items() if key != "publish"}
    folder = folder_of(parser, args, BENCHED, FOLDER)
    Results(file_name("shares", args), settings, folder).measure("shares", partial(measured, args))


if __name__ == "__main__":
    main()
