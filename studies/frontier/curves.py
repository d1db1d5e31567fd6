"""Methods at equal utility: each adapter's scales as a curve, read off where it has a share of standard SFT's gain.

The base is every curve's beginning. Between two scales a curve is straight. Prompts, rows and seeds are drawn
together for all methods, so that a difference of two has an interval of its own. Pure NumPy.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tosslm.statistics import DRAWS, Interval, drawn_counts, drawn_shares, unanimous

REACHED = 0.95
"""Share of draws in which a curve must reach a utility for the reading to count."""


@dataclass(frozen=True, slots=True)
class Values:
    """One metric of one method along its scales.

    Attributes:
        values: float64 ``[S, K, N]``, by training seed, scale (0 first, which is the base) and prompt or row.
        weights: float64 ``[N]``.
        strata: int ``[N]``, from 0: prompts or rows of a kind, of which the test split has a set number. So many are
            drawn of each; None where all are of one kind.
    """

    values: np.ndarray
    weights: np.ndarray
    strata: np.ndarray | None = None


def drawn_curve(metric: Values, name: str, draws: int = DRAWS) -> np.ndarray:
    """A metric's means along the scales, float64 ``[1 + draws, K]``; the first line is of all prompts and seeds.

    Args:
        metric: the values.
        name: the metric's; two methods draw the same prompts of one metric, and the same seeds of all.
        draws: how many.
    """
    seeds, _, n = metric.values.shape
    counts = np.vstack([np.ones(n), _drawn(metric, name, draws)]) * metric.weights
    shares = np.vstack([np.full(seeds, 1 / seeds), drawn_shares(seeds, 1, draws)])
    sums = np.einsum("dn,skn->dsk", counts, metric.values)
    return np.einsum("dsk,ds->dk", sums, shares) / counts.sum(axis=1, keepdims=True)


def _drawn(metric: Values, name: str, draws: int) -> np.ndarray:
    """How often each prompt or row is drawn, ``[draws, N]``; of each stratum as many as it has."""
    seed, strata = zlib.crc32(name.encode()), metric.strata
    if strata is None:
        return drawn_counts(metric.values.shape[-1], seed, draws)
    counts = np.zeros((draws, len(strata)))
    for stratum in np.unique(strata):
        own = strata == stratum
        counts[:, own] = drawn_counts(int(own.sum()), seed + int(stratum), draws)
    return counts


def gains(utility: np.ndarray, standard: np.ndarray) -> np.ndarray:
    """Share of standard SFT's gain along a curve, float64 ``[D, K]``.

    Args:
        utility: loss of useful rows, ``[D, K]``, of a method; the first scale is the base.
        standard: loss of standard SFT as it was trained, ``[D]``.

    Examples:
        >>> gains(np.array([[2.0, 1.5, 1.0]]), np.array([1.0])).tolist()
        [[0.0, 0.5, 1.0]]
    """
    base = utility[:, :1]
    return (base - utility) / (base - standard[:, None])


def read_off(curve: np.ndarray, gain: np.ndarray, target: float) -> np.ndarray:
    """A metric where the curve's gain first reaches a target, float64 ``[D]``; nan where it never does.

    Args:
        curve: ``[D, K]``.
        gain: ``[D, K]``, as of ``gains``.
        target: share of standard SFT's gain.

    Examples:
        >>> read_off(np.array([[0.0, 1.0, 3.0]]), np.array([[0.0, 0.5, 1.0]]), 0.75).tolist()
        [2.0]
    """
    reached = gain >= target
    at = np.where(reached.any(axis=1), reached.argmax(axis=1), 0)
    lines = np.arange(len(curve))
    before = np.maximum(at - 1, 0)
    step = gain[lines, at] - gain[lines, before]
    with np.errstate(invalid="ignore", divide="ignore"):
        part = np.where(step > 0, (target - gain[lines, before]) / step, 1.0)
    value = curve[lines, before] + part * (curve[lines, at] - curve[lines, before])
    return np.where(reached.any(axis=1), value, np.nan)


def interval(drawn: np.ndarray, n: int) -> Interval | None:
    """The figure of all prompts with the middle 95% of its draws; None where too many draws miss the target."""
    if not np.isfinite(drawn[0]) or np.isfinite(drawn[1:]).mean() < REACHED:
        return None
    low, high = np.nanquantile(drawn[1:], [0.025, 0.975])
    return Interval(float(drawn[0]), float(low), float(high), n)


def share_interval(drawn: np.ndarray, n: int) -> Interval | None:
    """As ``interval``, of a metric whose values may all be 0 or all 1: no draw differs then, and a bound is exact.

    Examples:
        >>> share_interval(np.zeros(3), 74).high > 0.04
        True
    """
    found = interval(drawn, n)
    same = found is not None and found.low == found.high == found.value and found.value in (0.0, 1.0)
    return unanimous(found.value, n) if found is not None and same else found


class Curves:
    """All methods of one setting.

    Args:
        table: by entry and metric, its values; ``utility`` among them.
        standard: the entry whose gain is the measure, at scale 1.
        scales: of every entry, 0 first; 1 among them.
    """

    def __init__(self, table: Mapping[str, Mapping[str, Values]], standard: str, scales: Sequence[float]) -> None:
        self.table, self.scales, self.unscaled = table, tuple(scales), tuple(scales).index(1.0)
        self._drawn: dict[tuple[str, str], np.ndarray] = {}
        self._standard = self.curve(standard, "utility")[:, self.unscaled]

    def curve(self, entry: str, metric: str) -> np.ndarray:
        """``drawn_curve`` of an entry."""
        if (entry, metric) not in self._drawn:
            self._drawn[entry, metric] = drawn_curve(self.table[entry][metric], metric)
        return self._drawn[entry, metric]

    def gain(self, entry: str) -> np.ndarray:
        """Share of standard SFT's gain along an entry's curve, ``[1 + draws, K]``."""
        return gains(self.curve(entry, "utility"), self._standard)

    def most(self, entry: str) -> Interval | None:
        """The greatest share of standard SFT's gain that an entry has, however it is scaled."""
        return interval(self.gain(entry).max(axis=1), self.n(entry, "utility"))

    def at(self, entry: str, metric: str, target: float) -> np.ndarray:
        """A metric of an entry at a share of standard SFT's gain, ``[1 + draws]``."""
        return read_off(self.curve(entry, metric), self.gain(entry), target)

    def has(self, entry: str, metric: str) -> bool:
        """Whether a metric of an entry was measured."""
        return metric in self.table.get(entry, {})

    def n(self, entry: str, metric: str) -> int:
        """Prompts or rows of a metric."""
        return self.table[entry][metric].values.shape[-1]

    def reading(self, entry: str, metric: str, target: float) -> Interval | None:
        """A metric of an entry at equal utility, with its interval."""
        return share_interval(self.at(entry, metric, target), self.n(entry, metric))

    def likelier(self, entry: str, metric: str, target: float) -> Interval | None:
        """By how much an entry's loss is below the base's, at equal utility."""
        return interval(self.curve(entry, metric)[:, 0] - self.at(entry, metric, target), self.n(entry, metric))

    def at_scale(self, entry: str, metric: str, index: int) -> Interval | None:
        """A metric of an entry at one of its scales, whatever its utility there."""
        return share_interval(self.curve(entry, metric)[:, index], self.n(entry, metric))

    def difference(self, entry: str, other: str, metric: str, target: float) -> Interval | None:
        """An entry's metric less another's, both at equal utility, on the same prompts and seeds."""
        drawn = self.at(entry, metric, target) - self.at(other, metric, target)
        return interval(drawn, self.n(entry, metric))
