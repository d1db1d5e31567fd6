"""Selection against a sort of tuples, as the authors' code does it, on the same scores in one run.

    python -m benchmarks.tuples                       # 5 million tokens, 5 turns
    python -m benchmarks.tuples --tokens 500000

Theirs: a list of (score, row, position) of all tokens, sorted in descending order, of which the first
``floor(d * N)`` are dropped. Row and position are negated here, so that of equal scores the earlier token goes first,
and both masks must be the same. Ours is ``tosslm.select_tokens``. The two take turns.
"""

from __future__ import annotations

import math
import time
from functools import partial
from typing import Any

import numpy as np
from benchmarks.measuring import Results, folder_of, lacking, parser_of, provenance_told, spread, verdict

import tosslm

NAME = "tuples"
BAR = 50.0
FRACTION = 0.1
TOKENS_A_ROW = 100
REPEATS = 5


def by_tuples(rows: list[list[float]]) -> tuple[list[list[bool]], float]:
    """A mask by sorting tuples, and the processor seconds of the sort alone."""
    tokens = [(score, -row, -place) for row, scores in enumerate(rows) for place, score in enumerate(scores)]
    begin = time.process_time()
    tokens.sort(reverse=True)
    sort_seconds = time.process_time() - begin
    keep = [[True] * len(scores) for scores in rows]
    for _, row, place in tokens[: math.floor(FRACTION * len(tokens))]:
        keep[-row][-place] = False
    return keep, sort_seconds


def turn(tokens: int, seed: int) -> dict[str, float]:
    """One turn of both, in processor seconds.

    Raises:
        SystemExit: the masks differ.
    """
    scores = np.random.default_rng(seed).standard_normal(tokens, dtype=np.float32)
    rows = scores.reshape(-1, TOKENS_A_ROW).tolist()
    begin = time.process_time()
    theirs, sort_seconds = by_tuples(rows)
    middle = time.process_time()
    ours = tosslm.select_tokens(scores, FRACTION)
    end = time.process_time()
    if not np.array_equal(np.array(theirs).ravel(), ours):
        raise SystemExit("the masks differ")
    return {"tuples": middle - begin, "sort": sort_seconds, "ours": end - middle}


def section(results: dict[str, Any]) -> str:
    """The page's section."""
    turns = list(results["cases"].values())
    whole = spread([one["tuples"] / one["ours"] for one in turns])
    sort = spread([one["sort"] / one["ours"] for one in turns])
    theirs, ours = (spread([one[key] for one in turns]) for key in ("tuples", "ours"))
    times = whole["median"]
    lacks = lacking(results, [f"turn {number}" for number in range(results["settings"].get("repeats", REPEATS))])
    judged = verdict(times >= BAR, lacks, f"not met, by {BAR / times:.2g} times")
    return "\n".join(
        [
            "## Against a sort of tuples",
            "",
            f"`python -m benchmarks.tuples`: {results['settings']['tokens']:,} tokens in memory, {len(turns)} turns, "
            "the same mask in each. Making a list of (score, row, position), sorting it and marking the first tenth "
            f"takes {theirs['median']:.1f} s of a processor ({theirs['low']:.1f} to {theirs['high']:.1f}), "
            f"`select_tokens` {ours['median']:.3f} s ({ours['low']:.3f} to {ours['high']:.3f}).",
            "",
            f"- At least {BAR:g} times as fast: {judged} ({times:.0f} times, {whole['low']:.0f} to "
            f"{whole['high']:.0f}; against the sort alone {sort['median']:.0f} times, {sort['low']:.0f} to "
            f"{sort['high']:.0f}).",
            "",
            provenance_told(results, lacks),
        ]
    )


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--tokens", type=int, default=5_000_000, help=f"a multiple of {TOKENS_A_ROW}")
    parser.add_argument("--repeats", type=int, default=REPEATS)
    args = parser.parse_args()
    settings = {"tokens": args.tokens, "discard_fraction": FRACTION, "repeats": args.repeats}
    results = Results(NAME, settings, folder_of(parser, args))
    tosslm.select_tokens(np.zeros(1, dtype=np.float32))  # what is loaded on first use
    for repeat in range(args.repeats):
        results.measure(f"turn {repeat}", partial(turn, args.tokens, repeat))


if __name__ == "__main__":
    main()
