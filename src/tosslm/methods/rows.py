"""Whole rows by their mean score: the same signal, without the tokens."""

import numpy as np

from tosslm.methods.material import Material
from tosslm.methods.method import Method, drop_rows_in_order, keep_rows


def drop_riskiest_rows(material: Material) -> np.ndarray:
    """Rows of the highest mean score are dropped, within ``floor(d * N)`` tokens; bool ``[N]``."""
    row_of = np.repeat(np.arange(len(material.lengths)), material.lengths)
    sums = np.bincount(row_of, weights=material.scores, minlength=len(material.lengths))
    means = np.where(material.lengths > 0, sums / np.maximum(material.lengths, 1), -np.inf)
    return keep_rows(material, drop_rows_in_order(material, np.argsort(-means, kind="stable")))


ROWS = Method(
    "rows",
    summary="drops whole rows by their mean TOSS score, within the same number of tokens",
    source="ablation of Li et al. 2026, arXiv 2603.01185",
    badge="variant",
    differs="dropped rows stay in the batches without labels, so that steps and order are those of every method",
    choose=drop_riskiest_rows,
    drops_share=True,
)
