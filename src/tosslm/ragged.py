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


def sums_before(values: Sequence[int] | np.ndarray) -> np.ndarray:
    """The sum of all integers (or truths) before each, and at the end that of all: int64 ``[n + 1]``."""
    return np.concatenate([[0], np.cumsum(values)]).astype(np.int64)


def row_starts(lengths: Sequence[int] | np.ndarray) -> np.ndarray:
    """Where each row's values begin, and where the last row's end: int64 ``[R + 1]``."""
    return sums_before(lengths)


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
    return places_in_answers(places, [len(places)])


def places_in_answers(positions: np.ndarray, lengths: Sequence[int] | np.ndarray) -> np.ndarray:
    """As ``answer_positions``, of several rows: int64 ``[N]``.

    Args:
        positions: int ``[N]``, of each response token in its row, rows one after the other.
        lengths: int ``[R]``, response tokens of each row.

    Examples:
        >>> places_in_answers(np.array([1, 2, 5, 6, 7]), [3, 2]).tolist()
        [0, 1, 0, 0, 1]
    """
    begins = np.diff(positions, prepend=-2) != 1
    begins[row_starts(lengths)[:-1][np.asarray(lengths) > 0]] = True
    starts = np.flatnonzero(begins)
    return np.arange(len(positions)) - np.repeat(starts, np.diff(starts, append=len(positions)))
