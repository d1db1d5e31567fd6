"""Means over rows of unequal length, with bootstrap intervals; pure NumPy.

Tokens of one answer depend on each other, so rows are drawn again, not tokens.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tosslm.statistics import bounds, drawn_counts

RESAMPLES = 1000


def _draws(rows: int) -> np.ndarray:
    """How often each row comes in each resample: float64, as matrix products want it, ``[RESAMPLES, rows]``."""
    return drawn_counts(rows, 0, RESAMPLES).astype(np.float64)


def position_means(values: Sequence[np.ndarray]) -> list[dict[str, float | int]]:
    """The mean over rows at each position, with the interval that holds 95% of the resampled means.

    Args:
        values: one float array ``[R]`` a row; rows may be of different lengths.

    Returns:
        For each position up to the longest row's: ``position`` (from 0), ``mean``, ``low``, ``high`` and ``n``, the
        rows that reach it.
    """
    longest = max(map(len, values), default=0)
    if not longest:
        return []
    filled = np.zeros((len(values), longest))
    there = np.zeros_like(filled)
    for i, row in enumerate(values):
        filled[i, : len(row)], there[i, : len(row)] = row, 1
    draws = _draws(len(values))
    counts = draws @ there
    means = np.divide(draws @ filled, counts, out=np.full_like(counts, np.nan), where=counts > 0)
    low, high = bounds(means)
    n = there.sum(0)
    return [
        {"position": i, "mean": filled[:, i].sum() / n[i], "low": low[i], "high": high[i], "n": int(n[i])}
        for i in range(longest)
    ]


def row_mean(sums: Sequence[float], counts: Sequence[int] | None = None) -> dict[str, float | int]:
    """The mean of all rows' values, with its interval.

    Args:
        sums: one value a row, or the sum of a row's values.
        counts: how many values each sum has; one each by default.

    Returns:
        ``mean``, ``low``, ``high``, and ``n``, the rows; with no rows only ``n``.
    """
    if not len(sums):
        return {"n": 0}
    total, count = np.asarray(sums, dtype=np.float64), np.ones(len(sums)) if counts is None else np.asarray(counts)
    draws = _draws(len(total))
    low, high = bounds((draws @ total) / (draws @ count))
    return {"mean": float(total.sum() / count.sum()), "low": float(low), "high": float(high), "n": len(total)}
