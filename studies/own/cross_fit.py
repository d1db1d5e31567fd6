"""Two folds of a custom set, and which rows a utility reference may learn from; pure functions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tosslm.data.rows import base_id, held_out
from tosslm.selection.joining import trusted_rows


def folds(row_ids: Sequence[str]) -> np.ndarray:
    """Which half each row is of, 0 or 1, int ``[R]``: by content alone, all copies of a content in one."""
    first = held_out(row_ids, 0.5)
    return np.array([0 if base_id(row_id) in first else 1 for row_id in row_ids])


def trimmed(scores: Sequence[np.ndarray], keep: float) -> np.ndarray:
    """TOSS-Pro's walk turned round: the rows of the lowest mean score stay, bool ``[R]``.

    Args:
        scores: floats, one array a row.
        keep: share of the rows that stay, at least one; of equal ones the earlier.
    """
    return trusted_rows(np.array([float(row.mean()) for row in scores]), 1 - keep)
