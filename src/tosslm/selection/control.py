"""How far down to drop, so that no more useful text is lost than allowed, and most of what is dropped is not useful.

A token is dropped where unsafe is more likely than not, and the threshold on the log-odds is raised until two things
hold on held-out useful rows:

- *No more goes than allowed.* The share of a useful row's tokens that go, averaged over the rows and bounded for a
  new one, is at most ``false_discard`` (A. N. Angelopoulos et al., Conformal risk control, arXiv 2208.02814). The
  bound holds for a new row that is exchangeable with the held-out ones, which must have had no part in what gives the
  log-odds. With few rows the bound's correction takes up all that is allowed, and half of the rows are missed where
  the log-odds are learnt; then the share is estimated, by cross-fitting, without a bound.
- *What goes is unlike useful text.* Where the custom set loses hardly more than useful rows would, what it loses is
  useful text, however sure the posterior is. A useful row must lose at most ``USEFUL_OF_DROPPED`` of what a custom
  row loses, so that no more than that of what is dropped is useful (a false discovery rate, estimated as in J. D.
  Storey, A direct approach to false discovery rates, 2002, with all that is tested taken to be null). So a clean set
  loses next to nothing, and one with much harm what it would without this.

Everything here is a pure function of arrays.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

EVEN_ODDS = 0.0
USEFUL_OF_DROPPED = 0.5
"""More useful text than harm is never dropped: even odds again, as held-out rows tell them."""
_SLACK = 1e-12


@dataclass(frozen=True, slots=True)
class Control:
    """A threshold, and what is known of it.

    Attributes:
        threshold: tokens with higher log-odds of unsafe are dropped.
        rows: held-out useful rows that it was found on.
        risk: mean share of their tokens above it.
        bound: on the expected share of a new useful row; None where ``risk`` is an estimate.
        dropped: mean share of a custom row's tokens above it.
        sooner: the threshold, were it no matter how much of what goes is useful.
    """

    threshold: float
    rows: int
    risk: float
    bound: float | None
    dropped: float
    sooner: float


@dataclass(frozen=True, slots=True)
class Loss:
    """What useful text loses, by how far down one drops.

    Attributes:
        thresholds: ``[K]``, ascending, all at which something changes; the first is even odds.
        shares: ``[K]``, the mean share of a held-out useful row above each; the last is 0.
        rows: held-out useful rows.
    """

    thresholds: np.ndarray
    shares: np.ndarray
    rows: int


def rows_needed(false_discard: float) -> int:
    """Held-out useful rows that a bound is asked of: with so many its correction is half of what may go.

    With fewer, what the correction leaves is little, and much harm would stay for its sake.
    """
    return math.ceil(round(2 / false_discard - 1, 9))


def useful_loss(useful_rows: Sequence[np.ndarray]) -> Loss:
    """What held-out useful rows lose above every threshold that matters to them.

    Args:
        useful_rows: log-odds of unsafe of held-out useful rows, one float array ``[n]`` a row, at least one and none
            of them empty.

    Examples:
        >>> useful_loss([np.array([-3.0, 2.0, 1.0, -4.0]), np.array([-3.0, -1.0])])
        Loss(thresholds=array([0., 1., 2.]), shares=array([0.25 , 0.125, 0.   ]), rows=2)
    """
    values = np.concatenate(useful_rows)
    thresholds = np.concatenate([[EVEN_ODDS], np.unique(values[values > EVEN_ODDS])])
    lengths = np.array([len(row) for row in useful_rows])
    return Loss(thresholds, mean_shares([(values, lengths)], thresholds), len(useful_rows))


def mean_shares(rows: Iterable[tuple[np.ndarray, np.ndarray]], thresholds: np.ndarray) -> np.ndarray:
    """The mean share of a row's tokens above each threshold, float64 ``[K]``; rows without tokens are passed over.

    Args:
        rows: values ``[N]`` of some rows, and their lengths ``[R]``, as often as there are.
        thresholds: ``[K]``, ascending.
    """
    passed, count = np.zeros(len(thresholds) + 1), 0
    for values, lengths in rows:
        shares = np.repeat(1 / np.maximum(lengths, 1), lengths)
        passed += np.bincount(np.searchsorted(thresholds, values), weights=shares, minlength=len(passed))
        count += int(np.count_nonzero(lengths))
    return passed[::-1].cumsum()[-2::-1] / max(count, 1)  # above the k-th: what passed k + 1 thresholds or more


def controlled_threshold(loss: Loss, false_discard: float, dropped: np.ndarray) -> Control | None:
    """The lowest threshold at which ``(n * risk + 1) / (n + 1) <= false_discard`` and most that goes is not useful.

    Args:
        loss: of useful rows that had no part in what gives the log-odds.
        false_discard: share of useful text that may go, in (0, 1).
        dropped: ``[K]``, of ``mean_shares`` of the custom set above the same thresholds.

    Returns:
        The threshold; None where there are too few rows for any.

    Examples:
        >>> rows = [np.array([-3.0, -2.0, 1.0, -4.0]), *[np.array([-3.0, -1.0])] * 98]
        >>> harm = np.array([0.2, 0.2])
        >>> controlled_threshold(useful_loss(rows), 0.02, harm).threshold
        0.0
        >>> controlled_threshold(useful_loss(rows), 0.0101, harm).threshold
        1.0
        >>> controlled_threshold(useful_loss(rows), 0.001, harm) is None
        True
    """
    bounds = (loss.rows * loss.shares + 1) / (loss.rows + 1)
    if bounds[-1] > false_discard + _SLACK:
        return None
    return _lowest(loss, bounds <= false_discard + _SLACK, dropped, bounds)


def estimated_threshold(loss: Loss, false_discard: float, dropped: np.ndarray) -> Control:
    """The lowest threshold above which the mean row loses at most ``false_discard``, without a bound.

    Args:
        loss: of useful rows; each row's log-odds learnt without it.
        false_discard: share of useful text that may go, in (0, 1).
        dropped: as of ``controlled_threshold``; most of it must not be useful here either.

    Examples:
        >>> loss = useful_loss([np.array([-3.0, 2.0, 1.0, -4.0]), np.array([-3.0, -1.0])])
        >>> estimated_threshold(loss, 0.2, np.array([0.5, 0.4, 0.3])).threshold
        1.0
        >>> estimated_threshold(loss, 0.2, np.array([0.2, 0.2, 0.1])).threshold
        2.0
    """
    return _lowest(loss, loss.shares <= false_discard + _SLACK, dropped, None)


def _lowest(loss: Loss, allowed: np.ndarray, dropped: np.ndarray, bounds: np.ndarray | None) -> Control:
    unlike = loss.shares <= USEFUL_OF_DROPPED * dropped + _SLACK
    at = int(np.flatnonzero(allowed & unlike)[0])  # the highest is always among them: no useful text is above it
    return Control(
        threshold=float(loss.thresholds[at]),
        rows=loss.rows,
        risk=float(loss.shares[at]),
        bound=None if bounds is None else float(bounds[at]),
        dropped=float(dropped[at]),
        sooner=float(loss.thresholds[np.flatnonzero(allowed)[0]]),
    )


def sets_threshold(content_id: str) -> bool:
    """Whether a held-out row sets the threshold, and has no part in the fit: about half of them, by content alone."""
    return hashlib.sha256(f"{content_id} sets the threshold".encode()).digest()[0] % 2 == 0


def cut_above(chunks: Iterable[np.ndarray], threshold: float) -> tuple[int, int, float | None, int]:
    """What is above a threshold: tokens in all, tokens above, the lowest value above and how often it occurs.

    Args:
        chunks: float32 arrays ``[n]``.
        threshold: tokens above it are dropped.
    """
    tokens = dropped = ties = 0
    lowest: float | None = None
    for chunk in chunks:
        tokens += len(chunk)
        above = chunk[chunk > threshold]
        if not len(above):
            continue
        dropped += len(above)
        least = float(above.min())
        if lowest is None or least < lowest:
            lowest, ties = least, 0
        ties += int(np.count_nonzero(above == np.float32(lowest)))
    return tokens, dropped, lowest, ties
