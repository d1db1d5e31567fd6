"""What the slider of the report shows: counts and thresholds at each discard fraction that it offers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tosslm.report.tokens import CustomTokens, Ranking
from tosslm.selection.cut import discard_count
from tosslm.selection.decided import DROPPED, OPEN

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
        "sourceTokens": _of_sources(tokens, tokens.lengths),
        "ownKind": tokens.own_kind,
        "kinds": [_kind(tokens, ranking, fractions) for ranking in tokens.rankings],
    }
    if tokens.own_kind is None:
        shown["sourceGone"] = _of_sources(tokens, tokens.by_row(tokens.gone))
    return shown


def _of_sources(tokens: CustomTokens, of_rows: np.ndarray) -> list[int]:
    counts: list[int] = np.bincount(tokens.source, of_rows, len(tokens.sources)).astype(int).tolist()
    return counts


def _kind(tokens: CustomTokens, ranking: Ranking, fractions: Sequence[float]) -> dict[str, Any]:
    step = _steps_in_rows if tokens.in_rows else _steps
    counts, thresholds = step(tokens, ranking, fractions)
    return {
        "key": ranking.key,
        "label": ranking.label,
        "unit": ranking.unit,
        "scale": max(float(np.quantile(np.abs(ranking.values), 0.9)), 1e-6),
        "counts": counts,
        "thresholds": thresholds,
    }


def _steps(
    tokens: CustomTokens, ranking: Ranking, fractions: Sequence[float]
) -> tuple[list[list[int]], list[float | None]]:
    """Dropped tokens of each source, and the lowest dropped value, at each discard fraction, in ascending order.

    What people dropped goes whatever the fraction, what they kept stays; the threshold is of the others.
    """
    decided = np.zeros(len(tokens.gone), dtype=np.int8) if tokens.decided is None else tokens.decided
    of_token = np.repeat(tokens.source, tokens.lengths)
    order = np.argsort(ranking.ranks)
    order = order[decided[order] == OPEN]
    source, by_hand = of_token[order], of_token[decided == DROPPED]
    counts, thresholds, last, total = [], [], 0, np.bincount(by_hand, minlength=len(tokens.sources))
    for fraction in fractions:
        limit = min(max(discard_count(len(decided), fraction) - len(by_hand), 0), len(order))
        total = total + np.bincount(source[last:limit], minlength=len(total))
        counts.append(total.tolist())
        thresholds.append(float(ranking.values[order[limit - 1]]) if limit else None)
        last = limit
    return counts, thresholds


def _steps_in_rows(
    tokens: CustomTokens, ranking: Ranking, fractions: Sequence[float]
) -> tuple[list[list[int]], list[float | None]]:
    """The same where selection works inside rows, which have no common threshold."""
    source = np.repeat(tokens.source, tokens.lengths)
    masks = (tokens.dropped(ranking, fraction) for fraction in fractions)
    counts = [np.bincount(source[mask], minlength=len(tokens.sources)).tolist() for mask in masks]
    return counts, [None] * len(fractions)
