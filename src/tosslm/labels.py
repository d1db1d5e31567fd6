"""Rows as the trainer takes them: labels, and the datasets that carry them from disk."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
from datasets import Dataset

from tosslm.files import atomic_path

IGNORED = -100
TRAINING_SCHEMA = pa.schema(
    [
        ("input_ids", pa.list_(pa.int32())),
        ("labels", pa.list_(pa.int32())),
        ("response_tokens", pa.int32()),
    ]
)


def training_row(input_ids: Sequence[int], response_mask: Sequence[bool], keep: Iterable[bool] | None) -> dict:
    """One row as the trainer takes it.

    Args:
        input_ids: ints ``[T]``.
        response_mask: bools ``[T]``.
        keep: one bool a response token; None keeps all.

    Returns:
        ``input_ids``; ``labels`` (-100 where not trained, dropped tokens among them); ``response_tokens``, their
        count with the dropped ones.
    """
    kept = iter(keep) if keep is not None else None
    labels = [
        token if responds and (kept is None or next(kept)) else IGNORED
        for token, responds in zip(input_ids, response_mask, strict=True)
    ]
    return {"input_ids": list(input_ids), "labels": labels, "response_tokens": sum(response_mask)}


def write_training_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> Dataset:
    """Write training rows as they come, and give them back as a dataset that lies on disk, not in memory."""
    with atomic_path(path) as beside, pa.ipc.new_stream(beside, TRAINING_SCHEMA) as writer:
        pending: list[Mapping[str, Any]] = []
        for row in rows:
            pending.append(row)
            if len(pending) == 1000:
                writer.write_batch(pa.RecordBatch.from_pylist(pending, schema=TRAINING_SCHEMA))
                pending = []
        if pending:
            writer.write_batch(pa.RecordBatch.from_pylist(pending, schema=TRAINING_SCHEMA))
    return Dataset.from_file(str(path))


def count_tokens(rows: Dataset) -> tuple[int, int]:
    """All tokens of training rows, and those that are trained on."""
    tokens = trained = 0
    for batch in rows.with_format("arrow").iter(batch_size=1000):
        tokens += len(batch["input_ids"].combine_chunks().flatten())
        labels = batch["labels"].combine_chunks().flatten().to_numpy()
        trained += int((labels != IGNORED).sum())
    return tokens, trained
