"""Values of rows of unequal length, one row after the other in one flat array; pure NumPy."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def split_rows(values: np.ndarray, lengths: Sequence[int] | np.ndarray) -> list[np.ndarray]:
    """One array a row, as views.

    Args:
        values: ``[N]``, rows one after the other.
        lengths: int ``[R]``, how many values each row has; they add up to ``N``.

    Returns:
        ``R`` arrays.

    Examples:
        >>> [row.tolist() for row in split_rows(np.array([1, 2, 3]), [2, 0, 1])]
        [[1, 2], [], [3]]
    """
    return np.split(values, np.cumsum(lengths)[:-1]) if len(lengths) else []


def row_starts(lengths: Sequence[int] | np.ndarray) -> np.ndarray:
    """Where each row's values begin, and where the last row's end: int64 ``[R + 1]``."""
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)


def row_numbers(lengths: Sequence[int] | np.ndarray) -> np.ndarray:
    """The row of each value: int64 ``[N]``."""
    return np.repeat(np.arange(len(lengths)), lengths)


def answer_positions(response_mask: np.ndarray) -> np.ndarray:
    """How many response tokens of the same answer stand before each, int64 ``[n]``, of a row's mask, bool ``[T]``.

    Examples:
        >>> answer_positions(np.array([False, True, True, False, True])).tolist()
        [0, 1, 0]
    """
    places = np.flatnonzero(response_mask)
    starts = np.flatnonzero(np.diff(places, prepend=-2) > 1)
    lengths = np.diff(starts, append=len(places))
    return np.arange(len(places)) - np.repeat(starts, lengths)
