"""How far down to drop, so that no more useful text is lost than allowed: conformal risk control, or an estimate.

A token is dropped where unsafe is more likely than not, and never more useful text than allowed: the threshold on
the log-odds is raised until the share of a useful row's tokens that go, averaged over held-out useful rows and
bounded for a new one, is at most ``false_discard`` (A. N. Angelopoulos et al., Conformal risk control, arXiv
2208.02814). The bound holds for a new row that is exchangeable with the held-out ones, which must have had no part in
what gives the log-odds. With few rows the bound's correction takes up all that is allowed, and half of the rows are
missed where the log-odds are learnt; then the share is estimated, by cross-fitting, without a bound.

Everything here is a pure function of arrays.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

EVEN_ODDS = 0.0


@dataclass(frozen=True, slots=True)
class Control:
    """A threshold, and what is known of it.

    Attributes:
        threshold: tokens with higher log-odds of unsafe are dropped.
        rows: held-out useful rows that it was found on.
        risk: mean share of their tokens above it.
        bound: on the expected share of a new useful row; None where ``risk`` is an estimate.
    """

    threshold: float
    rows: int
    risk: float
    bound: float | None


def rows_needed(false_discard: float) -> int:
    """Held-out useful rows that a bound is asked of: with so many its correction is half of what may go.

    With fewer, what the correction leaves is little, and much harm would stay for its sake.
    """
    return math.ceil(round(2 / false_discard - 1, 9))


def controlled_threshold(useful_rows: Sequence[np.ndarray], false_discard: float) -> Control | None:
    """The lowest threshold, from even odds up, that keeps ``(n * risk + 1) / (n + 1) <= false_discard``.

    Args:
        useful_rows: log-odds of unsafe of held-out useful rows, one float array ``[n]`` a row, none of them empty.
        false_discard: share of useful text that may go, in (0, 1).

    Returns:
        The threshold; None where there are too few rows for any.

    Examples:
        >>> rows = [np.array([-3.0, -2.0, 1.0, -4.0]), *[np.array([-3.0, -1.0])] * 98]
        >>> controlled_threshold(rows, 0.02).threshold
        0.0
        >>> controlled_threshold(rows, 0.0101).threshold
        1.0
        >>> controlled_threshold(rows, 0.001) is None
        True
    """
    n = len(useful_rows)
    if 1 / (n + 1) > false_discard + 1e-12:
        return None
    candidates, risks = _risks(useful_rows)
    bounds = (n * risks + 1) / (n + 1)
    first = int(np.flatnonzero(bounds <= false_discard + 1e-12)[0])  # the highest always does: it loses nothing
    return Control(float(candidates[first]), n, float(risks[first]), float(bounds[first]))


def estimated_threshold(useful_rows: Sequence[np.ndarray], false_discard: float) -> Control:
    """The lowest threshold, from even odds up, above which the mean row loses at most ``false_discard``; no bound.

    Args:
        useful_rows: as of ``controlled_threshold``, at least one; each row's log-odds learnt without it.
        false_discard: share of useful text that may go, in (0, 1).

    Examples:
        >>> estimated_threshold([np.array([-3.0, 2.0, 1.0, -4.0]), np.array([-3.0, -1.0])], 0.2).threshold
        1.0
    """
    candidates, risks = _risks(useful_rows)
    first = int(np.flatnonzero(risks <= false_discard + 1e-12)[0])
    return Control(float(candidates[first]), len(useful_rows), float(risks[first]), None)


def _risks(useful_rows: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Thresholds at which something changes, even odds and up; and the mean share of a row above each."""
    values = np.concatenate(useful_rows)
    shares = np.repeat([1 / len(row) for row in useful_rows], [len(row) for row in useful_rows])
    above = values > EVEN_ODDS
    order = np.argsort(-values[above], kind="stable")
    high, lost = values[above][order], np.cumsum(shares[above][order]) / len(useful_rows)
    candidates = np.concatenate([[EVEN_ODDS], np.unique(high)])
    return candidates, np.array([lost[k - 1] if k else 0.0 for k in np.searchsorted(-high, -candidates, side="left")])


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
