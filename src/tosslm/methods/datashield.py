"""DataShield: segments of answers that look like unsafe examples to the base are masked."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from tosslm.methods.likeness import likeness_parts, span_likeness
from tosslm.methods.material import Material
from tosslm.methods.method import Method
from tosslm.methods.needs import SAFETY, UNQUANTIZED, UTILITY_SET
from tosslm.ragged import answer_positions
from tosslm.selection.cut import select_tokens

if TYPE_CHECKING:
    from tosslm.workbench import Workbench

TOKEN_RISKS = "token risks"


def mask_unsafe_looking_segments(material: Material) -> np.ndarray:
    """Tokens of the segments most like unsafe examples are dropped, to ``floor(d * N)``; bool ``[N]``.

    The last segment to go is masked from its first token on, as far as the budget goes.
    """
    return select_tokens(material.signals[TOKEN_RISKS], material.discard_fraction)


def segment_spans(response_mask: np.ndarray, segment: int) -> np.ndarray:
    """Each answer of a row, cut every ``segment`` tokens.

    Args:
        response_mask: bool ``[T]``.
        segment: tokens; what is left at an answer's end is a segment too.

    Returns:
        int ``[S, 2]``: the first token of each segment, and the one after its last.

    Examples:
        >>> segment_spans(np.array([0, 1, 1, 1, 0, 1], dtype=bool), 2).tolist()
        [[1, 3], [3, 4], [5, 6]]
    """
    places = np.flatnonzero(response_mask)
    firsts = np.flatnonzero(answer_positions(response_mask) % segment == 0)
    lasts = np.append(firsts, len(places))[1:] - 1
    return np.stack([places[firsts], places[lasts] + 1], axis=1)


def token_risks(bench: Workbench) -> np.ndarray:
    """How like unsafe examples the segment of each custom token is, less how like safe ones, float64 ``[N]``.

    Raises:
        InputError: there is no safe example.
    """
    segment = bench.config.compare.guard_segment
    found = span_likeness(bench, lambda mask: segment_spans(mask, segment), useful_too=True)
    return np.concatenate([np.repeat(values, np.diff(spans, axis=1)[:, 0]) for spans, values in found])


def _choice_parts(bench: Workbench) -> list[Any]:
    return [bench.config.compare.guard_segment, *likeness_parts(bench)]


DATASHIELD = Method(
    "datashield",
    summary="drops segments of answers that look like unsafe examples to the base's safety-sensitive layer",
    source="the idea of DataShield, arXiv 2607.15081",
    badge="simplified",
    differs="neither paper nor code could be read, so this is its idea alone: segments are masked by hidden states "
    "of the base, without a degraded model. Chosen here: segments of compare.guard_segment tokens, their mean state "
    "in the layer that larf finds, mean cosines to the segments of larf's examples and, among the safe ones, of "
    "rows of the utility set, since beside refusals alone all answers look unsafe (chosen with the demo's marks in "
    "sight); the budget of dropped tokens, to "
    "which the last segment is cut. Another of the name (Zhang et al. 2026, arXiv 2606.00160) drops rows",
    builds_on="data",
    choose=mask_unsafe_looking_segments,
    signals={TOKEN_RISKS: token_risks},
    needs=(SAFETY, UTILITY_SET, UNQUANTIZED),
    drops_share=True,
    choice_covers=_choice_parts,
)
