"""How far down to drop, so that useful text is not lost beyond what is allowed: conformal risk control.

A token is dropped where unsafe is more likely than not, and never more useful text than allowed: the threshold on
the log-odds is raised until the share of a useful row's tokens that go, averaged over held-out useful rows and
bounded for a new one, is at most ``false_discard`` (A. N. Angelopoulos et al., Conformal risk control, arXiv
2208.02814). The bound holds for a new row that is exchangeable with the held-out ones, which must have had no part in
what gives the log-odds.

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
        bound: on the expected share of a new useful row.
    """

    threshold: float
    rows: int
    risk: float
    bound: float


def rows_needed(false_discard: float) -> int:
    """Held-out useful rows without which no threshold keeps the bound: ``1 / (n + 1) <= false_discard``."""
    return math.ceil(round(1 / false_discard - 1, 9))


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
    if n < rows_needed(false_discard):
        return None
    values = np.concatenate(useful_rows)
    shares = np.repeat([1 / len(row) for row in useful_rows], [len(row) for row in useful_rows])
    above = values > EVEN_ODDS
    order = np.argsort(-values[above], kind="stable")
    high, lost = values[above][order], np.cumsum(shares[above][order]) / n
    # Thresholds at which something changes, the lowest first, and what is lost above each.
    candidates = np.concatenate([[EVEN_ODDS], np.unique(high)])
    risks = np.array([lost[k - 1] if k else 0.0 for k in np.searchsorted(-high, -candidates, side="left")])
    bounds = (n * risks + 1) / (n + 1)
    first = int(np.flatnonzero(bounds <= false_discard + 1e-12)[0])  # the highest always does: it loses nothing
    return Control(float(candidates[first]), n, float(risks[first]), float(bounds[first]))


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
