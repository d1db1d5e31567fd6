"""What the slider of the report shows: counts and thresholds at each discard fraction that it offers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from tosslm.report.tokens import CustomTokens, Ranking, row_ranks
from tosslm.selection.cut import discard_count
from tosslm.selection.decided import DROPPED, OPEN, overrule
from tosslm.selection.order import cuts_at, dropped_by_group, quantiles

_GRID_STEP, _GRID_END = 0.005, 0.5


def grid(discard_fraction: float) -> list[float]:
    """The discard fractions that the slider offers: steps of half a percent, and the run's own."""
    steps = [i * _GRID_STEP for i in range(round(_GRID_END / _GRID_STEP) + 1)]
    return sorted({*(round(step, 3) for step in steps), discard_fraction})


def panel(tokens: CustomTokens, own: float) -> dict[str, Any]:
    """Of each kind of evidence, counts by source and thresholds at each discard fraction.

    Args:
        tokens: all tokens.
        own: the run's own discard fraction.

    Returns:
        JSON-able, for the script.
    """
    fractions = grid(own)
    shown: dict[str, Any] = {
        "grid": fractions,
        "own": fractions.index(own),
        "tokens": len(tokens.gone),
        "inRows": tokens.in_rows,
        "sources": tokens.sources,
        "sourceTokens": tokens.by_source(lambda block: block.lengths).tolist(),
        "ownKind": tokens.own_kind,
        "kinds": [_kind(tokens, ranking, fractions) for ranking in tokens.rankings],
    }
    if tokens.own_kind is None:
        shown["sourceGone"] = tokens.by_source(lambda block: block.sums(tokens.gone[block.tokens])).tolist()
    return shown


def _kind(tokens: CustomTokens, ranking: Ranking, fractions: Sequence[float]) -> dict[str, Any]:
    step = _steps_in_rows if tokens.in_rows else _steps
    counts, thresholds = step(tokens, ranking, fractions)
    values = ranking.values
    [scale] = quantiles(lambda: (np.abs(values[block.tokens]) for block in tokens.blocks()), len(values), [0.9])
    return {
        "key": ranking.key,
        "label": ranking.label,
        "unit": ranking.unit,
        "scale": max(scale, 1e-6),
        "counts": counts,
        "thresholds": thresholds,
    }


def _steps(
    tokens: CustomTokens, ranking: Ranking, fractions: Sequence[float]
) -> tuple[list[list[int]], list[float | None]]:
    """Dropped tokens of each source, and the lowest dropped value, at each discard fraction, in ascending order.

    What people dropped goes whatever the fraction, what they kept stays; the threshold is of the others.
    """

    def open_tokens() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for block in tokens.blocks():
            values, source = ranking.values[block.tokens], block.repeated(tokens.source)
            if tokens.decided is not None:
                left = tokens.decided[block.tokens] == OPEN
                values, source = values[left], source[left]
            yield values, source

    by_hand, open_ = _by_hand(tokens)
    limits = [
        min(max(discard_count(len(tokens.gone), fraction) - int(by_hand.sum()), 0), open_) for fraction in fractions
    ]
    cuts = cuts_at(lambda: (values for values, _ in open_tokens()), open_, limits)
    counts = by_hand + dropped_by_group(open_tokens, len(tokens.sources), cuts)
    return counts.tolist(), [cut.threshold for cut in cuts]


def _by_hand(tokens: CustomTokens) -> tuple[np.ndarray, int]:
    """Tokens of each source that people dropped, and how many tokens they left open."""
    if (decided := tokens.decided) is None:
        return np.zeros(len(tokens.sources), dtype=np.int64), len(tokens.gone)
    open_ = sum(int((decided[block.tokens] == OPEN).sum()) for block in tokens.blocks())
    return tokens.by_source(lambda block: block.sums(decided[block.tokens] == DROPPED)), open_


def _steps_in_rows(
    tokens: CustomTokens, ranking: Ranking, fractions: Sequence[float]
) -> tuple[list[list[int]], list[float | None]]:
    """The same where selection works inside rows, which have no common threshold."""
    counts = np.zeros((len(fractions), len(tokens.sources)), dtype=np.int64)
    for block in tokens.blocks():
        ranks, source = row_ranks(tokens.placed(ranking, block), block.lengths), block.repeated(tokens.source)
        decided = None if tokens.decided is None else tokens.decided[block.tokens]
        for step, fraction in enumerate(fractions):
            limits = np.array([discard_count(length, fraction) for length in block.lengths.tolist()])
            below = ranks < np.repeat(limits, block.lengths)
            mask = below if decided is None else ~overrule(~below, decided)
            counts[step] += np.bincount(source[mask], minlength=len(tokens.sources))
    return counts.tolist(), [None] * len(fractions)
