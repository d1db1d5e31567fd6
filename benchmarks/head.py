"""The loss of response tokens from hidden states: ours, and the ways there are without logits of all positions.

    python -m benchmarks.head

*Ours* is what scoring does. *whole* computes the logits of all positions and their cross-entropy. *torch* is
``torch.nn.functional.linear_cross_entropy`` in chunks. *compiled* is the path that Apple's cut-cross-entropy takes
where there is no GPU: both lines under ``torch.compile``, which wants a C++ compiler. All read the same hidden states
in turns, in processor time where there is one thread.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any

import torch
from benchmarks.measuring import LEFT_OUT, Results, folder_of, lacking, left_out, parser_of, provenance_told, spread
from torch.nn.functional import cross_entropy, linear, linear_cross_entropy
from transformers import PretrainedConfig

from tosslm.model.head import SplitHead

NAME = "head"
POSITIONS, TURNS = 512, 5
SHAPES = {"SmolLM2-135M": (49_152, 576), "Gemma 3 270M": (262_144, 640)}
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
Way = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def ways(head: torch.nn.Linear) -> dict[str, Way]:
    """Each takes hidden states ``[N, H]`` and targets ``[N]``, and gives losses in nats ``[N]``."""
    own = SplitHead(SimpleNamespace(get_output_embeddings=lambda: head, config=PretrainedConfig()))
    weight = head.weight

    def whole(hidden: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return cross_entropy(linear(hidden, weight).float(), targets, reduction="none")

    options = torch.nn.LinearCrossEntropyOptions()
    return {
        "ours": own.losses,
        "whole": whole,
        "torch": lambda hidden, targets: linear_cross_entropy(
            hidden, weight, targets, reduction="none", options=options
        ),
        "compiled": torch.compile(whole, fullgraph=True, dynamic=True),
    }


@torch.inference_mode()
def compared(vocabulary: int, width: int, dtype: torch.dtype) -> dict[str, Any]:
    """Seconds of each way over the turns, and how far its losses lie from those of float64, in nats."""
    torch.manual_seed(0)
    head = torch.nn.Linear(width, vocabulary, bias=False, dtype=dtype)
    hidden = torch.randn(POSITIONS, width).to(dtype)
    targets = torch.randint(vocabulary, (POSITIONS,))
    some = cross_entropy(linear(hidden[:32].double(), head.weight.double()), targets[:32], reduction="none")
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    every = ways(head)
    apart = {name: float((way(hidden, targets)[:32] - some).abs().max()) for name, way in every.items()}
    seconds: dict[str, list[float]] = {name: [] for name in every}
    for turn in range(TURNS):
        for name in list(every)[:: 1 if turn % 2 == 0 else -1]:
            begin = clock()
            every[name](hidden, targets)
            seconds[name].append(clock() - begin)
    return {"seconds": seconds, "apart": apart}


def section(results: dict[str, Any]) -> str:
    """The page's section."""
    told = "processor seconds" if results["settings"]["threads"] == 1 else "seconds"
    lines = [
        "## The loss from hidden states",
        "",
        f"`python -m benchmarks.head`: {POSITIONS:,} positions, {told} of *ours* and of the other ways over it, "
        f"medians of {TURNS} turns, lowest to highest: above 1, ours is quicker. *whole*: logits of all positions, "
        "then cross-entropy. *torch*: `torch.nn.functional.linear_cross_entropy` in chunks. *compiled*: the same two "
        "lines under `torch.compile`, which is what Apple's cut-cross-entropy runs where there is no GPU.",
        "",
        "| head | dtype | ours, s | whole | torch | compiled | nats from float64: ours, compiled |",
        "|---|---|---|---|---|---|---|",
    ]
    for case, found in results["cases"].items():
        seconds, apart = found["seconds"], found["apart"]
        over = [_over(seconds[name], seconds["ours"]) for name in ("whole", "torch", "compiled")]
        own = spread(seconds["ours"])["median"]
        lines.append(
            f"| {case.replace(', ', ' | ')} | {own:.2f} | {' | '.join(over)} | "
            f"{apart['ours']:.0e}, {apart['compiled']:.0e} |"
        )
    dtypes = results["settings"].get("dtypes", list(DTYPES))
    lacks = lacking(results, [f"{model}, {dtype}" for model in SHAPES for dtype in dtypes])
    left = [] if "bfloat16" in dtypes else [LEFT_OUT, ""]
    return "\n".join([*lines, "", *left, provenance_told(results, lacks)])


def _over(one: list[float], other: list[float]) -> str:
    found = spread([a / b for a, b in zip(one, other, strict=True)])
    return f"{found['median']:.2f} ({found['low']:.2f} to {found['high']:.2f})"


def main() -> None:
    parser = parser_of(__doc__)
    folder = folder_of(parser, parser.parse_args())
    dtypes = {name: dtype for name, dtype in DTYPES.items() if not left_out(name)}
    settings = {"positions": POSITIONS, "turns": TURNS, "threads": torch.get_num_threads(), "dtypes": list(dtypes)}
    results = Results(NAME, settings, folder)
    for model, (vocabulary, width) in SHAPES.items():
        for name, dtype in dtypes.items():
            results.measure(f"{model}, {name}", partial(compared, vocabulary, width, dtype))


if __name__ == "__main__":
    main()
