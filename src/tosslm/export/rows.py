"""A masked row: what every kind of export is written from, made once, of the rows and the keep mask of a run."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from tosslm.runs.layout import Layout


@dataclass(frozen=True, slots=True)
class MaskedRow:
    """One row of the custom set, and what of it is trained.

    Attributes:
        row_id: of the row.
        messages: the conversation as the data have it.
        input_ids: int32 ``[T]``.
        labels: int32 ``[T]``, not shifted; -100 where not trained.
        response_mask: bool ``[T]``.
        offsets: int32 ``[N, 3]``, for each of the ``N`` response tokens message index, start and end; -1 where it has
            no text.
        keep: bool ``[N]``, what selection kept.
        weights: float32 ``[T]``, what each token counts; 0 where not trained, 1 elsewhere unless a method weighs.
        trained: bool ``[T]``, where ``labels`` is not -100.
    """

    row_id: str
    messages: list[dict[str, Any]]
    input_ids: np.ndarray
    labels: np.ndarray
    response_mask: np.ndarray
    offsets: np.ndarray
    keep: np.ndarray
    weights: np.ndarray
    trained: np.ndarray


def masked_rows(layout: Layout, anchor_first: int | None = None) -> Iterator[MaskedRow]:
    """Stream the custom set as it is trained on.

    A token that was dropped is not trained, nor is one that the run holds to the base, nor one that a method gives
    the weight 0.

    Args:
        layout: of a run whose selection is done.
        anchor_first: of ``finetune.anchor_first`` where the run anchors; None where it does not.

    Raises:
        TosslmError: the mask or the weights do not belong to these rows.
    """
    from tosslm.ragged import answer_positions
    from tosslm.training.labels import IGNORED, anchored_tokens, training_row
    from tosslm.training.masked import rows_with_mask

    columns = ["row_id", "messages", "input_ids", "response_mask", "offsets"]
    for row, keep, own in rows_with_mask(layout, columns, weighed=layout.weights.exists()):
        response_mask = np.asarray(row["response_mask"], dtype=bool)
        anchored = None
        if anchor_first is not None:
            anchored = anchored_tokens(keep, answer_positions(response_mask), anchor_first)
        weights = np.zeros(len(response_mask), dtype=np.float32)
        weights[response_mask] = 1.0 if own is None else own
        labels = training_row(row["input_ids"], row["response_mask"], keep, anchored)["labels"]
        masked = np.where(weights > 0, np.asarray(labels, dtype=np.int32), IGNORED).astype(np.int32)
        trained = masked != IGNORED
        yield MaskedRow(
            row_id=row["row_id"],
            messages=json.loads(row["messages"]),
            input_ids=np.asarray(row["input_ids"], dtype=np.int32),
            labels=masked,
            response_mask=response_mask,
            offsets=np.asarray(row["offsets"], dtype=np.int32).reshape(-1, 3),
            keep=keep,
            weights=np.where(trained, weights, np.float32(0)),
            trained=trained,
        )


def message_of_tokens(row: MaskedRow) -> np.ndarray:
    """The message that each response token belongs to, int ``[N]``.

    A token without text belongs to the message of its own answer's tokens; an answer of such tokens alone to none,
    -1.
    """
    of_tokens = row.offsets[:, 0].copy()
    for first, stop in answer_bounds(row.response_mask):
        own = of_tokens[first:stop]
        own[own < 0] = own.max(initial=-1)
    return of_tokens


def answer_bounds(response_mask: np.ndarray) -> list[tuple[int, int]]:
    """Each answer's first response token and the one past its last, counted among response tokens.

    Examples:
        >>> answer_bounds(np.array([False, True, True, False, True]))
        [(0, 2), (2, 3)]
    """
    places = np.flatnonzero(response_mask)
    starts = np.flatnonzero(np.diff(places, prepend=-2) > 1).tolist()
    return list(zip(starts, [*starts[1:], len(places)], strict=True))
