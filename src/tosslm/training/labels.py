"""Rows as the trainer takes them: labels, and the datasets that carry them from disk."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import compress, islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset

from tosslm.files import atomic_path
from tosslm.misplaced import IGNORED as IGNORED
from tosslm.ragged import answer_positions, row_starts

TRAINING_SCHEMA = pa.schema(
    [
        ("input_ids", pa.list_(pa.int32())),
        ("labels", pa.list_(pa.int32())),
        ("response_tokens", pa.int32()),
    ]
)
_ANCHORED = pa.field("anchored", pa.list_(pa.bool_()))
_WEIGHT = pa.field("weight", pa.list_(pa.float32()))
_PLACE = pa.field("place", pa.list_(pa.int32()))
_NUMBER = pa.field("number", pa.int32())


def training_row(
    input_ids: Sequence[int],
    response_mask: Sequence[bool],
    keep: Iterable[bool] | None,
    anchored: Iterable[bool] | None = None,
    weights: Iterable[float] | None = None,
) -> dict[str, Any]:
    """One row as the trainer takes it.

    Args:
        input_ids: ints ``[T]``.
        response_mask: bools ``[T]``.
        keep: one bool a response token; None keeps all.
        anchored: one bool a response token: where the model is held to the base instead of the label. None for
            training without anchors.
        weights: one number a response token: what it counts. None where all count alike.

    Returns:
        ``input_ids``; ``labels`` (-100 where not trained, dropped and anchored tokens among them);
        ``response_tokens``, the count of all response tokens; with anchors, ``anchored``, one bool a token; and,
        with weights, ``weight``, one number a token, 0 at those of no response.
    """
    kept = iter(keep) if keep is not None else None
    labels = [
        token if responds and (kept is None or next(kept)) else IGNORED
        for token, responds in zip(input_ids, response_mask, strict=True)
    ]
    row = {"input_ids": list(input_ids), "labels": labels, "response_tokens": sum(response_mask)}
    if weights is not None:
        counted = iter(weights)
        row["weight"] = [float(next(counted)) if responds else 0.0 for responds in response_mask]
    if anchored is None:
        return row
    held = iter(anchored)
    places = [bool(responds and next(held)) for responds in response_mask]
    row["labels"] = [IGNORED if anchor else label for label, anchor in zip(labels, places, strict=True)]
    return row | {"anchored": places}


def without_dropped(row: Mapping[str, Any], response_mask: Sequence[bool], keep: Sequence[bool]) -> dict[str, Any]:
    """A training row whose dropped tokens stand in its input no more.

    What follows a dropped token is then predicted, and placed, as if that had never been said. The row's
    ``response_tokens`` still counts the dropped ones: they are part of what ``normalize: all`` divides by.

    Args:
        row: as of ``training_row``, without anchors.
        response_mask: bools ``[T]``.
        keep: one bool a response token.

    Returns:
        The row with ``input_ids``, ``labels`` and, where there are any, ``weight`` of the other tokens.

    Examples:
        >>> row = training_row([5, 6, 7, 8], [False, True, True, True], [True, False, True])
        >>> without_dropped(row, [False, True, True, True], [True, False, True])
        {'input_ids': [5, 6, 8], 'labels': [-100, 6, 8], 'response_tokens': 3}
    """
    kept = iter(keep)
    stays = [not responds or bool(next(kept)) for responds in response_mask]
    columns = (name for name in ("input_ids", "labels", "weight") if name in row)
    left = dict(row) | {name: list(compress(row[name], stays)) for name in columns}
    return left | ({"place": places_of(list(compress(response_mask, stays)))} if "place" in row else {})


def places_of(response_mask: Sequence[bool]) -> list[int]:
    """How many response tokens of the same answer stand before each, ints ``[T]`` of bools ``[T]``; else 0.

    Examples:
        >>> places_of([False, True, True, False, True])
        [0, 0, 1, 0, 0]
    """
    mask = np.asarray(response_mask, dtype=bool)
    places = np.zeros(len(mask), dtype=np.int64)
    places[mask] = answer_positions(mask)
    return places.tolist()


def anchored_tokens(keep: np.ndarray, positions: np.ndarray, first: int) -> np.ndarray:
    """Where a row is anchored: its dropped tokens, and the first ones of each of its answers.

    Args:
        keep: bool ``[N]``, one value a response token.
        positions: int ``[N]``, how many response tokens of the same answer stand before each.
        first: how many response tokens at an answer's beginning are anchored, kept or not.

    Returns:
        bool ``[N]``.

    Examples:
        >>> keep = np.array([True, True, False, True, True])
        >>> anchored_tokens(keep, np.array([0, 1, 2, 0, 1]), first=1).tolist()
        [True, False, True, True, False]
    """
    return ~keep | (positions < first)


def write_training_rows(
    path: Path,
    rows: Iterable[Mapping[str, Any]],
    *,
    anchored: bool = False,
    weighed: bool = False,
    placed: bool = False,
    numbered: bool = False,
) -> Dataset:
    """Write training rows as they come, and give them back as a dataset that lies on disk, not in memory.

    Args:
        path: where they are written.
        rows: as ``training_row`` makes them.
        anchored: whether they bear anchors.
        weighed: whether they bear weights.
        placed: whether they say the place of each token in its answer, for a loss that goes by it; of a row that does
            not, the tokens with labels are its answers.
        numbered: add ``number``, a row's place among them, for a hook that knows rows by it.
    """
    schema = TRAINING_SCHEMA
    columns = ((anchored, _ANCHORED), (weighed, _WEIGHT), (placed, _PLACE), (numbered, _NUMBER))
    for column in (column for wanted, column in columns if wanted):
        schema = schema.append(column)
    counted = ((_placed(row) if placed else dict(row)) | {"number": number} for number, row in enumerate(rows))
    with atomic_path(path) as beside, pa.ipc.new_stream(beside, schema) as writer:
        for batch in in_batches(counted, 1000):
            writer.write_batch(pa.RecordBatch.from_pylist(batch, schema=schema))
    return read_training_rows(path)


def _placed(row: Mapping[str, Any]) -> dict[str, Any]:
    return {"place": places_of([label != IGNORED for label in row["labels"]])} | dict(row)


def read_training_rows(path: Path) -> Dataset:
    """What ``write_training_rows`` wrote, from the disk as it is read."""
    return Dataset.from_file(str(path))


def count_tokens(rows: Dataset) -> tuple[int, int, int]:
    """All tokens of training rows, those that are trained on, and those that are anchored."""
    tokens = trained = anchored = 0
    for batch in rows.with_format("arrow").iter(batch_size=1000):
        tokens += len(batch["input_ids"].combine_chunks().flatten())
        labels = batch["labels"].combine_chunks().flatten().to_numpy()
        trained += int((labels != IGNORED).sum())
        if "anchored" in rows.column_names:
            anchored += batch["anchored"].combine_chunks().flatten().true_count
    return tokens, trained, anchored


def read_lengths(rows: Dataset) -> np.ndarray:
    """Tokens of each training row up to its last label or anchor, int32 ``[N]``: what follows teaches nothing."""
    lengths = [np.zeros(0, dtype=np.int32)]
    for batch in rows.with_format("arrow").iter(batch_size=1000):
        labels = batch["labels"].combine_chunks()
        wanted = labels.flatten().to_numpy() != IGNORED
        if "anchored" in rows.column_names:
            wanted |= batch["anchored"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
        ends = row_starts(pc.list_value_length(labels).to_numpy())
        # Where wanted, a token's place; the largest up to a row's end is its last, unless that lies in a row before.
        last = np.maximum.accumulate(np.where(wanted, np.arange(1, len(wanted) + 1), 0))
        last = np.concatenate([[0], last])[ends[1:]]
        lengths.append(np.maximum(last - ends[:-1], 0).astype(np.int32))
    return np.concatenate(lengths)


def in_batches(rows: Iterable[Mapping[str, Any]], size: int) -> Iterator[list[Mapping[str, Any]]]:
    """Lists of at most ``size`` rows."""
    stream = iter(rows)
    while batch := list(islice(stream, size)):
        yield batch
