"""SEAL: rows that do not suit a model trained to be safe are dropped."""

import numpy as np

from tosslm.methods.method import Baseline, Material, drop_rows_in_order, keep_rows
from tosslm.methods.safety import needs_safety


def drop_lightest_rows(material: Material) -> np.ndarray:
    """Rows of the lowest weight are dropped, within ``floor(d * N)`` tokens; bool ``[N]``."""
    return keep_rows(material, drop_rows_in_order(material, np.argsort(material.row_weights, kind="stable")))


SEAL = Baseline(
    "seal",
    summary="drops whole rows that a selector, trained against safety demonstrations, gives the least weight",
    source="Shen et al. 2025, arXiv 2410.07471 (their memory-efficient algorithm)",
    differs="row weights are 1 on average, as a softmax over many rows all but takes them out of the model's loss; "
    "plain gradient steps of the selector: under AdamW, which evens out gradients, the rows' order weighs as much as "
    "their loss when epochs are few; an epoch is a pass over the custom rows, however many demonstrations there are; "
    "the model is trained as references are; the budget of dropped tokens instead of a share of rows, and dropped "
    "rows stay in the batches without labels",
    needs="data",
    keep=drop_lightest_rows,
    asks_selector=True,
    check=needs_safety("seal"),
)
