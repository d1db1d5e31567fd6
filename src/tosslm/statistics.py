"""95% intervals by bootstrap: over prompts, and over seeds where there are several. Pure NumPy.

The bootstrap (Efron 1979) draws prompts with replacement and takes the middle 95% of the means it sees. Where
answers of several training seeds are at hand, seeds are drawn too, independently of the prompts, so the interval
covers both. All that it needs of a draw is how often each prompt came, so a draw is a row of counts and all means are
one matrix product. Every draw of rows, prompts or seeds in this project is made here.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

DRAWS = 2000
LEVEL = 0.95
_CELLS = 1 << 22  # counts in memory at a time


@dataclass(frozen=True, slots=True)
class Interval:
    """A figure with its 95% interval.

    Attributes:
        value: the figure itself, over all prompts and seeds.
        low: lower end.
        high: upper end.
        n: prompts (or rows) it was measured on.
    """

    value: float
    low: float
    high: float
    n: int

    def as_dict(self) -> dict[str, Any]:
        """As a metric of a results file: ``value``, ``low``, ``high``, ``n``."""
        return asdict(self)


def mean_interval(
    values: np.ndarray, weights: np.ndarray | None = None, *, seed: int = 0, draws: int = DRAWS
) -> Interval:
    """A mean with its interval.

    Where all values are 0 or all are 1, every draw has the same mean; the interval's other end is then the exact
    (Clopper-Pearson) one, since a width of nothing would claim what was not measured.

    Args:
        values: ``[N]``, one a prompt, or ``[S, N]``, one a seed and prompt.
        weights: ``[N]``, such as a row's tokens where values are means over tokens; None weighs all alike.
        seed: of the draws.
        draws: how many.

    Raises:
        ValueError: there are no values, one is not finite, or the weights do not fit.

    Examples:
        >>> mean_interval(np.array([1.0, 1.0, 0.0, 1.0])).value
        0.75
    """
    values, weights = _checked(values, weights)
    n = values.shape[1]
    value = float((values @ weights).mean() / weights.sum())
    if value in (0.0, 1.0) and np.all(values == value):
        return unanimous(value, n)
    return Interval(value, *_ends(drawn_means(values, weights, seed, draws)), n)


def unanimous(value: float, n: int) -> Interval:
    """A share where all of ``n`` prompts say 0, or all say 1, with its exact (Clopper-Pearson) other end.

    Examples:
        >>> round(unanimous(0.0, 74).high, 3)
        0.049
    """
    reach = float(((1 - LEVEL) / 2) ** (1 / n))
    return Interval(value, *((0.0, 1 - reach) if value == 0 else (reach, 1.0)), n)


def paired_difference(
    a: np.ndarray, b: np.ndarray, weights: np.ndarray | None = None, *, seed: int = 0, draws: int = DRAWS
) -> Interval:
    """Mean of ``a`` minus mean of ``b`` on the same prompts (and seeds), drawn together.

    Prompts that are hard for one method are hard for the other, and drawing them together takes that out of the
    interval. The difference is significant at 5% where the interval leaves out zero.

    Args:
        a: ``[N]`` or ``[S, N]``.
        b: the same shape, the same prompts in the same order.
        weights: as for ``mean_interval``.
        seed: of the draws.
        draws: how many.

    Raises:
        ValueError: shapes differ, or as for ``mean_interval``.
    """
    a, b = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if a.shape != b.shape:
        raise ValueError(f"shapes {a.shape} and {b.shape} differ; pair the same prompts and seeds of both methods")
    values, weights = _checked(a - b, weights)
    value = float((values @ weights).mean() / weights.sum())
    return Interval(value, *_ends(drawn_means(values, weights, seed, draws)), values.shape[1])


def _checked(values: np.ndarray, weights: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    values = np.atleast_2d(np.asarray(values, dtype=np.float64))
    if values.ndim != 2 or not values.size:
        raise ValueError(f"values have shape {values.shape}; one or more are needed, [N] or [S, N]")
    weights = np.ones(values.shape[1]) if weights is None else np.asarray(weights, dtype=np.float64)
    if weights.shape != values.shape[1:] or (weights < 0).any() or not weights.sum() > 0:
        raise ValueError(f"weights have shape {weights.shape}; {values.shape[1]} are needed, 0 or more, not all 0")
    if not (np.isfinite(values).all() and np.isfinite(weights).all()):
        raise ValueError("a value or weight is not finite")
    return values, weights


def drawn_means(values: np.ndarray, weights: np.ndarray, seed: int, draws: int = DRAWS) -> np.ndarray:
    """Weighted means of ``draws`` resamples, float64 ``[draws]``; two calls of one shape and seed draw the same.

    Args:
        values: float64 ``[S, N]``, one a seed and prompt.
        weights: float64 ``[N]``.
        seed: of the draws.
        draws: how many.
    """
    seeds, n = values.shape
    rng = np.random.default_rng(seed)
    means = np.empty(draws)
    step = max(1, _CELLS // n)
    for start in range(0, draws, step):
        size = min(step, draws - start)
        counts = _counts(rng, n, size) * weights  # (size, n)
        per_seed = counts @ values.T  # (size, seeds)
        own = _shares(rng, seeds, size)
        total = counts.sum(axis=1)
        with np.errstate(invalid="ignore", divide="ignore"):
            means[start : start + size] = (per_seed * own).sum(axis=1) / total
    return means[np.isfinite(means)]  # a draw of prompts without any weight has no mean


def resampled_interval(values: np.ndarray, n: int, *, seed: int = 1) -> Interval:
    """The mean over seeds of a statistic that is no mean itself, such as an AUROC, with its interval.

    Args:
        values: float64 ``[S, 1 + draws]``, one line a training seed: the statistic on all rows, then on each resample
            of ``drawn_counts``, the same resamples for every seed.
        n: rows it was measured on.
        seed: of the draws of seeds; another than that of the rows, so that they do not go together.

    Examples:
        >>> resampled_interval(np.array([[0.5, 0.4, 0.6]]), 8).value
        0.5
    """
    shares = drawn_shares(len(values), seed, values.shape[1] - 1)
    return Interval(float(values[:, 0].mean()), *_ends((values[:, 1:].T * shares).sum(axis=1)), n)


def drawn_counts(n: int, seed: int, draws: int = DRAWS) -> np.ndarray:
    """How often each of ``n`` rows comes in each resample, int64 ``[draws, n]``; every line adds up to ``n``."""
    return _counts(np.random.default_rng(seed), n, draws)


def drawn_shares(seeds: int, seed: int, draws: int = DRAWS) -> np.ndarray:
    """How much each training seed weighs in each resample, float64 ``[draws, S]``; every row adds up to 1."""
    return _shares(np.random.default_rng(seed), seeds, draws)


def _shares(rng: np.random.Generator, seeds: int, draws: int) -> np.ndarray:
    return _counts(rng, seeds, draws) / seeds


def _counts(rng: np.random.Generator, n: int, draws: int) -> np.ndarray:
    return rng.multinomial(n, np.full(n, 1 / n), size=draws)


def bounds(drawn: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Between what the middle 95% of drawn figures lie: float64 ``[draws, ...]`` in, two of ``[...]`` out.

    NaN is a draw without a figure, and counts for nothing.
    """
    low, high = np.nanquantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
    return low, high


def _ends(drawn: np.ndarray) -> tuple[float, float]:
    low, high = bounds(drawn)
    return float(low), float(high)
