"""What people decide of tokens, before any rule does: spans and rows to keep or to drop.

A decision goes first. The cut then takes the highest of what is left open, so that the whole comes to exactly
``floor(d * N)`` dropped tokens wherever it can: not where people drop more than that, and not where they keep so much
that too few are left. Everything here is pure NumPy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

OPEN, KEPT, DROPPED = 0, 1, 2
"""Of a token: left to the rules, kept by hand, dropped by hand."""
_HIGHEST = np.finfo(np.float32).max


@dataclass(frozen=True, slots=True)
class Decision:
    """One line of a file of decisions.

    Attributes:
        row_id: the row that is meant, and none of its copies.
        keep: whether it is to be kept, else dropped.
        span: message index, start and end in code points of that message's content; None is the whole row.
        by: who decided.
        at: when, as ISO 8601 has it.
        note: why.
    """

    row_id: str
    keep: bool
    span: tuple[int, int, int] | None = None
    by: str | None = None
    at: str | None = None
    note: str | None = None


def covered_tokens(offsets: np.ndarray, span: tuple[int, int, int] | None) -> np.ndarray:
    """Which response tokens a decision covers: those with a character in its span, and every one for a whole row.

    A token without text, such as the end of turn, is in no span.

    Args:
        offsets: int ``[n, 3]``: message index, start and end of each response token; -1 where it has no text.
        span: the same three of a decision, or None.

    Returns:
        bool ``[n]``.
    """
    message, start, end = offsets.reshape(-1, 3).T
    if span is None:
        return np.ones(len(message), dtype=bool)
    return (message == span[0]) & (start < span[2]) & (end > span[1])


def decide(offsets: np.ndarray, decisions: Sequence[Decision]) -> tuple[np.ndarray, np.ndarray]:
    """What is decided of a row's tokens; where decisions overlap the later one counts.

    Args:
        offsets: int ``[n, 3]``, as of ``covered_tokens``.
        decisions: of this row, in the order of the file.

    Returns:
        int8 ``[n]``, ``OPEN``, ``KEPT`` or ``DROPPED``; and int64 ``[n]``, which decision counts, -1 where none does.

    Examples:
        >>> offsets = np.array([[1, 0, 4], [1, 4, 9], [-1, -1, -1]])
        >>> decide(offsets, [Decision("a", keep=False), Decision("a", keep=True, span=(1, 5, 6))])[0].tolist()
        [2, 1, 2]
    """
    last = np.full(len(offsets), -1, dtype=np.int64)
    for number, decision in enumerate(decisions):
        last[covered_tokens(offsets, decision.span)] = number
    meant = np.array([OPEN, *(KEPT if decision.keep else DROPPED for decision in decisions)], dtype=np.int8)
    return meant[last + 1], last


def placed(values: np.ndarray, decided: np.ndarray) -> np.ndarray:
    """Values to rank, with what is dropped by hand above all others and what is kept by hand below.

    So the cut of ``selection.cut`` counts hand-dropped tokens first and comes to the kept ones last.

    Args:
        values: float32 ``[n]``.
        decided: int8 ``[n]``, as of ``decide``.

    Returns:
        float32 ``[n]``.
    """
    return np.where(decided == DROPPED, _HIGHEST, np.where(decided == KEPT, -_HIGHEST, values)).astype(np.float32)


def overrule(keep: np.ndarray, decided: np.ndarray) -> np.ndarray:
    """A keep mask, bool ``[n]``, in which what people decided counts: whatever the cut had to come to."""
    return (keep | (decided == KEPT)) & (decided != DROPPED)
