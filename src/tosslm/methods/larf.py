"""LARF: rows that look like unsafe examples to the layer at which the base decides to refuse are dropped."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from tosslm.methods.likeness import likeness_parts, span_likeness
from tosslm.methods.material import Material
from tosslm.methods.method import Method, keep_best_rows
from tosslm.methods.needs import SAFETY, UNQUANTIZED

if TYPE_CHECKING:
    from tosslm.workbench import Workbench

ROW_RISKS = "row risks"


def drop_unsafe_looking_rows(material: Material) -> np.ndarray:
    """Rows most like unsafe examples are dropped, within ``floor(d * N)`` tokens; bool ``[N]``."""
    return keep_best_rows(material, material.signals[ROW_RISKS])


def last_response_token(response_mask: np.ndarray) -> np.ndarray:
    """The one span of a row that is looked at, int ``[1, 2]``, of its mask, bool ``[T]``.

    The token that ends an answer has read all of it.
    """
    last = int(np.flatnonzero(response_mask)[-1])
    return np.array([[last, last + 1]])


def row_risks(bench: Workbench) -> np.ndarray:
    """How like unsafe examples each custom row of a run is, less how like safe ones, float64 ``[R]``.

    Raises:
        InputError: there is no safe example.
    """
    return np.fromiter((values[0] for _, values in span_likeness(bench, last_response_token)), dtype=np.float64)


LARF = Method(
    "larf",
    summary="drops whole rows that look like unsafe examples to the base's safety-sensitive layer",
    source="Li et al. 2025, arXiv 2507.18631, and their code",
    badge="variant",
    differs="what a scaled layer does to refusals is read off how much likelier safe answers are than unsafe ones, "
    "where they generate answers to requests that only sound unsafe and count refusals; layers are scaled by 0.8 and "
    "1.2 alone, and one is taken; unsafe examples are rows of the harmful set, safe ones rows of compare.safety, to "
    "other requests; the budget of dropped tokens instead of a number of rows, and dropped rows stay in the batches "
    "without labels",
    builds_on="data",
    choose=drop_unsafe_looking_rows,
    signals={ROW_RISKS: row_risks},
    needs=(SAFETY, UNQUANTIZED),
    drops_share=True,
    choice_covers=likeness_parts,
)
