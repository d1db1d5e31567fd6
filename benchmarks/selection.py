"""Time and memory of ``tosslm.select_tokens``, on scores that are easy and scores that are not.

    python benchmarks/selection.py                          # 100 million tokens, every case
    python benchmarks/selection.py --tokens 10000000 --case sorted --case mostly-equal
    python benchmarks/selection.py --check                  # exit status 1 where a case is over the budget

The budget is 5 s and 2 GB beyond the scores, for 100 million float32 scores on two cores; with ``--tokens`` it stays
what it is. ``seconds`` is the median of ``--repeats``. ``peak`` is the most memory held at a time beyond the scores,
the mask included, in one further call under ``tracemalloc``, to which NumPy reports its arrays. ``np.partition``
stands beside for comparison where ``--partition`` is given: it finds the threshold only, without a mask.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
import time
import tracemalloc
from collections.abc import Callable

import numpy as np

from tosslm.selection.cut import select_tokens

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


def median_seconds(call: Callable[[], object], repeats: int) -> float:
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def peak_gigabytes(call: Callable[[], object]) -> float:
    tracemalloc.start()
    call()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak / 1e9


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--tokens", type=int, default=100_000_000)
    parser.add_argument("--case", action="append", choices=list(CASES), help="may be repeated; default: every case")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--discard-fraction", type=float, default=0.1)
    parser.add_argument("--partition", action="store_true", help="time np.partition too")
    parser.add_argument("--check", action="store_true", help="exit status 1 over 5 s or 2 GB")
    args = parser.parse_args()
    rank = math.ceil((1 - args.discard_fraction) * args.tokens) - 1
    over_budget = False
    print(f"{'case':<14}{'tokens':>13}{'seconds':>9}{'peak GB':>9}" + "  partition s" * args.partition)
    for case in args.case or CASES:
        scores = CASES[case](args.tokens, np.random.default_rng(0))

        def select(scores: np.ndarray = scores) -> np.ndarray:
            return select_tokens(scores, args.discard_fraction)

        def partition(scores: np.ndarray = scores) -> np.ndarray:
            return np.partition(scores, rank)

        seconds, peak = median_seconds(select, args.repeats), peak_gigabytes(select)
        line = f"{case:<14}{args.tokens:>13,}{seconds:>9.2f}{peak:>9.2f}"
        if args.partition:
            line += f"{median_seconds(partition, 1):>13.2f}"
        print(line, flush=True)
        over_budget |= seconds > SECONDS or peak > GIGABYTES
    return 1 if args.check and over_budget else 0


if __name__ == "__main__":
    sys.exit(main())
