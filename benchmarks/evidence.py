"""Time and memory of one pass of ``tosslm.unsafe_log_odds``.

    python benchmarks/evidence.py                        # 100 million tokens in rows of 200
    python benchmarks/evidence.py --tokens 10000000 --row 50
    python benchmarks/evidence.py --check                # exit status 1 above 20 s

``seconds`` is the median of ``--repeats``; ``peak`` the most memory held at a time beyond the scores, the result
included, in one further call under ``tracemalloc``, to which NumPy reports its arrays.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
import tracemalloc

import numpy as np

from tosslm.selection.chain import unsafe_log_odds

SECONDS = 20.0


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--tokens", type=int, default=100_000_000)
    parser.add_argument("--row", type=int, default=200, help="tokens in a row")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--check", action="store_true", help="exit status 1 above 20 s")
    args = parser.parse_args()
    rng = np.random.default_rng(0)
    flat = rng.standard_normal(args.tokens, dtype=np.float32)
    rows = [flat[start : start + args.row] for start in range(0, args.tokens, args.row)]
    seconds = []
    for _ in range(args.repeats):
        start = time.perf_counter()
        unsafe_log_odds(rows, enter=0.03, leave=0.2)
        seconds.append(time.perf_counter() - start)
    tracemalloc.start()
    unsafe_log_odds(rows, enter=0.03, leave=0.2)
    peak = tracemalloc.get_traced_memory()[1] / 1e9
    median = statistics.median(seconds)
    spread = f"{min(seconds):.1f} to {max(seconds):.1f}"
    print(f"{args.tokens:,} tokens in rows of {args.row}: {median:.1f} s ({spread}), peak {peak:.1f} GB")
    return 1 if args.check and median > SECONDS else 0


if __name__ == "__main__":
    sys.exit(main())
