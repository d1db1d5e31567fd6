"""Time and memory of one pass of ``tosslm.unsafe_log_odds``.

    python -m benchmarks.evidence                        # 100 million tokens in rows of 200
    python -m benchmarks.evidence --tokens 10000000 --row 50

``seconds`` is the median of ``--repeats``; ``peak`` the most memory held at a time beyond the scores, the result
included, in one further call under ``tracemalloc``, to which NumPy reports its arrays.
"""

from __future__ import annotations

import time
import tracemalloc
from functools import partial
from typing import Any

import numpy as np
from benchmarks.measuring import Results, folder_of, parser_of, provenance_told, spread, verdict

from tosslm.selection.chain import unsafe_log_odds

NAME = "evidence"
SECONDS = 20.0


def measured(tokens: int, row: int, repeats: int) -> dict[str, Any]:
    """Seconds of each pass, and the peak of one more."""
    flat = np.random.default_rng(0).standard_normal(tokens, dtype=np.float32)
    rows = [flat[start : start + row] for start in range(0, tokens, row)]
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        unsafe_log_odds(rows, enter=0.03, leave=0.2)
        seconds.append(time.perf_counter() - start)
    tracemalloc.start()
    unsafe_log_odds(rows, enter=0.03, leave=0.2)
    peak = tracemalloc.get_traced_memory()[1] / 1e9
    tracemalloc.stop()
    return {"seconds": seconds, "peak_gb": peak}


def section(results: dict[str, Any]) -> str:
    """The page's section."""
    settings, case = results["settings"], results["cases"]["pass"]
    own = spread(case["seconds"])
    return "\n".join(
        [
            "## Evidence in context, in memory",
            "",
            f"`python -m benchmarks.evidence`: one forward-backward pass over {settings['tokens']:,} tokens in rows "
            f"of {settings['row']}, {own['n']} repeats: {own['median']:.1f} s ({own['low']:.1f} to "
            f"{own['high']:.1f}), {case['peak_gb']:.1f} GB beyond the scores.",
            "",
            f"- At most {SECONDS:g} s: {verdict(own['median'] <= SECONDS, '')}.",
            "",
            provenance_told(results),
        ]
    )


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--tokens", type=int, default=100_000_000)
    parser.add_argument("--row", type=int, default=200, help="tokens in a row")
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    settings = {"tokens": args.tokens, "row": args.row, "repeats": args.repeats}
    results = Results(NAME, settings, folder_of(parser, args))
    results.measure("pass", partial(measured, args.tokens, args.row, args.repeats))


if __name__ == "__main__":
    main()
