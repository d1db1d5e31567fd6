"""Time and memory of ``tosslm.select_tokens``, on scores that are easy and scores that are not.

    python -m benchmarks.selection                         # 100 million tokens, every case
    python -m benchmarks.selection --tokens 10000000 --case sorted --case mostly-equal

The budget is 5 s and 2 GB beyond the scores, for 100 million float32 scores on two cores; with ``--tokens`` it stays
what it is. ``seconds`` is the median of ``--repeats``. ``peak`` is the most memory held at a time beyond the scores,
the mask included, in one further call under ``tracemalloc``, to which NumPy reports its arrays. ``np.partition``
stands beside for comparison where ``--partition`` is given: it finds the threshold only, without a mask.
"""

from __future__ import annotations

import math
import statistics
import time
import tracemalloc
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from benchmarks.measuring import Results, folder_of, lacking, parser_of, provenance_told, spread, verdict

from tosslm.selection.cut import select_tokens

NAME = "selection"
SECONDS, GIGABYTES = 5.0, 2.0
CASES: dict[str, Callable[[int, np.random.Generator], np.ndarray]] = {
    "normal": lambda n, rng: rng.standard_normal(n, dtype=np.float32),
    "equal": lambda n, rng: np.full(n, 0.25, dtype=np.float32),
    "two-values": lambda n, rng: rng.integers(0, 2, n, dtype=np.int8).astype(np.float32),
    "sorted": lambda n, rng: np.sort(rng.standard_normal(n, dtype=np.float32)),
    "mostly-equal": lambda n, rng: (
        rng.standard_normal(n, dtype=np.float32) * (rng.random(n, dtype=np.float32) < 0.05)
    ),
}


def seconds_of(call: Callable[[], object], repeats: int) -> list[float]:
    """Seconds of each of several calls."""
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    return seconds


def peak_gigabytes(call: Callable[[], object]) -> float:
    tracemalloc.start()
    call()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak / 1e9


def measured(case: str, tokens: int, fraction: float, repeats: int, with_partition: bool) -> dict[str, Any]:
    """Seconds and peak of one case, and seconds of ``np.partition`` where they are asked for."""
    scores = CASES[case](tokens, np.random.default_rng(0))
    select = partial(select_tokens, scores, fraction)
    found: dict[str, Any] = {"seconds": seconds_of(select, repeats), "peak_gb": peak_gigabytes(select)}
    if with_partition:
        rank = math.ceil((1 - fraction) * tokens) - 1
        found["partition_seconds"] = seconds_of(lambda: np.partition(scores, rank), 1)
    return found


def over_budget(case: dict[str, Any]) -> bool:
    """Whether a case takes too long, or too much."""
    return statistics.median(case["seconds"]) > SECONDS or case["peak_gb"] > GIGABYTES


def section(results: dict[str, Any]) -> str:
    """The page's section."""
    cases = results["cases"]
    lines = [
        "## Selection, in memory",
        "",
        f"`python -m benchmarks.selection`: `select_tokens` on {results['settings']['tokens']:,} float32 scores that "
        "are in memory, easy and not; peak is what is held beyond the scores, the mask included.",
        "",
        "| scores | repeats | seconds (lowest to highest) | peak GB |",
        "|---|---|---|---|",
    ]
    for name, case in cases.items():
        own = spread(case["seconds"])
        times = f"{own['median']:.2f} ({own['low']:.2f} to {own['high']:.2f})"
        lines.append(f"| {name} | {own['n']} | {times} | {case['peak_gb']:.2f} |")
    lacks = lacking(results, CASES)
    judged = verdict(not any(map(over_budget, cases.values())), lacks)
    bar = f"- At most {SECONDS:g} s and {GIGABYTES:g} GB in every case: {judged}."
    return "\n".join([*lines, "", bar, "", provenance_told(results, lacks)])


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--tokens", type=int, default=100_000_000)
    parser.add_argument("--case", action="append", choices=list(CASES), help="may be repeated; default: every case")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--discard-fraction", type=float, default=0.1)
    parser.add_argument("--partition", action="store_true", help="time np.partition too")
    args = parser.parse_args()
    settings = {"tokens": args.tokens, "discard_fraction": args.discard_fraction, "repeats": args.repeats}
    results = Results(NAME, settings, folder_of(parser, args))
    asked = (args.tokens, args.discard_fraction, args.repeats, args.partition)
    for case in args.case or CASES:
        results.measure(case, partial(measured, case, *asked))


if __name__ == "__main__":
    main()
