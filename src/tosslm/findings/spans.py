"""How well scores find the text that people marked as unsafe."""

from __future__ import annotations

import numpy as np


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
