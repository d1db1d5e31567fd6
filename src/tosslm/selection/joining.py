"""TOSS-Pro: which custom rows join the harmful set in a round (arXiv 2603.01185); and the walk turned round."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np


def rows_to_join(
    best_scores: np.ndarray, content_ids: Sequence[str], excluded: Collection[str], samples: int
) -> list[int]:
    """Choose the riskiest rows that are new to the harmful set.

    The method walks the tokens of all rows from the highest score down, equal scores in the order (row, position),
    and collects each token's row until ``samples`` new rows have joined. A row is met first at its highest token,
    and of two rows whose highest tokens are equal the earlier is met first, for its token stands earlier. So the
    walk meets the rows in the order of their highest scores, equal ones as they stand: a stable sort of one number
    a row, instead of one a token.

    Args:
        best_scores: float32 ``[R]``, the highest token score of each row; ``-inf`` for a row without tokens, which
            never joins.
        content_ids: ``R`` row ids without their copy suffix. Of several copies of a row only the first met joins.
        excluded: content ids that are in the harmful set (trained on or held out), or joined in an earlier round.
        samples: how many rows are to join.

    Returns:
        Indices of the rows that join, in the order met; fewer than ``samples`` when no more are left.

    Raises:
        ValueError: a best score is NaN or ``+inf`` (the message has the row's index), ``best_scores`` and
            ``content_ids`` do not match, or ``samples`` is negative.

    Examples:
        >>> rows_to_join(np.array([0.5, 3.0, 3.0, 2.0], dtype=np.float32), ["a", "b", "b", "c"], {"c"}, 2)
        [1, 0]
    """
    best_scores = np.asarray(best_scores)
    if best_scores.shape != (len(content_ids),):
        raise ValueError(
            f"best_scores has shape {best_scores.shape}, but there are {len(content_ids)} content_ids; give one each"
        )
    if samples < 0:
        raise ValueError(f"samples is {samples}; it must be 0 or more")
    unranked = np.isnan(best_scores) | np.isposinf(best_scores)
    if unranked.any():
        row = int(np.argmax(unranked))
        raise ValueError(
            f"row {row} has a best score of {best_scores[row]}; only finite scores can be ranked: see which "
            "reference gives no finite loss in that row"
        )
    known = set(excluded)
    joined: list[int] = []
    for row in np.argsort(-best_scores, kind="stable").tolist():
        if len(joined) == samples or np.isneginf(best_scores[row]):
            break
        if content_ids[row] not in known:
            known.add(content_ids[row])
            joined.append(row)
    return joined


def trusted_count(rows: int, trim: float) -> int:
    """How many of some rows ``trusted_rows`` keeps: their share without the trim, rounded, and at least one."""
    return min(rows, max(1, round((1 - trim) * rows)))


def trusted_rows(mean_scores: np.ndarray, trim: float) -> np.ndarray:
    """TOSS-Pro's walk turned round: the rows that look least risky stay, bool ``[R]``.

    Args:
        mean_scores: floats ``[R]``, each row's mean score; high is risky.
        trim: in [0, 1), the share that goes; of equal rows the later goes.

    Raises:
        ValueError: a mean is no number (the message has the row's index).

    Examples:
        >>> trusted_rows(np.array([0.5, 3.0, -1.0, 0.5]), 0.5).tolist()
        [True, False, True, False]
    """
    mean_scores = np.asarray(mean_scores)
    if not np.isfinite(mean_scores).all():
        row = int(np.argmin(np.isfinite(mean_scores)))
        raise ValueError(f"row {row} has a mean score of {mean_scores[row]}; only finite scores can be ranked")
    stays = np.zeros(len(mean_scores), dtype=bool)
    stays[np.argsort(mean_scores, kind="stable")[: trusted_count(len(mean_scores), trim)]] = True
    return stays
