"""Whole rows by their mean score: the same signal, without the tokens."""

import numpy as np

from tosslm.methods.material import Material
from tosslm.methods.method import Method, RankedRows
from tosslm.ragged import row_numbers


def mean_scores(material: Material) -> np.ndarray:
    """Each row's mean score, float64 ``[R]``; a row without a token comes last."""
    sums = np.bincount(row_numbers(material.lengths), weights=material.scores, minlength=len(material.lengths))
    return np.where(material.lengths > 0, sums / np.maximum(material.lengths, 1), -np.inf)


ROWS = Method(
    "rows",
    summary="drops whole rows by their mean TOSS score, within the same number of tokens",
    source="ablation of Li et al. 2026, arXiv 2603.01185",
    badge="variant",
    differs="dropped rows stay in the batches without labels, so that steps and order are those of every method",
    choose=RankedRows(mean_scores),
    drops_share=True,
)
