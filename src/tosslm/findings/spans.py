"""How well scores find the text that people marked as unsafe."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def unsafe_tokens(offsets: Sequence[Sequence[int]], spans: Sequence[Sequence[int]]) -> np.ndarray:
    """Which response tokens hold a character of a marked span.

    Args:
        offsets: ``[N, 3]``: message index, start, end of each response token; -1 where it has no text.
        spans: ``[S, 3]``: message index, start, end of each marked span.

    Returns:
        bool ``[N]``.
    """
    message, start, end = np.asarray(offsets, dtype=np.int64).reshape(-1, 3).T
    unsafe = np.zeros(len(message), dtype=bool)
    for span_message, span_start, span_end in spans:
        unsafe |= (message == span_message) & (start < span_end) & (end > span_start) & (start >= 0)
    return unsafe


def ranking_quality(unsafe: np.ndarray, scores: np.ndarray) -> dict[str, float]:
    """AUROC and average precision of scores, high meaning unsafe.

    Args:
        unsafe: bool ``[N]``, with both values in it.
        scores: floats ``[N]``.
    """
    from sklearn.metrics import average_precision_score, roc_auc_score  # a second, which a list of rows does not need

    return {
        "auroc": float(roc_auc_score(unsafe, scores)),
        "average_precision": float(average_precision_score(unsafe, scores)),
        "unsafe_share": float(np.mean(unsafe)),
    }
