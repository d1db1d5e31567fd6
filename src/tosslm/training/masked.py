"""The custom set with the labels of dropped tokens at -100: for the fine-tuning, and for trainers of one's own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from datasets import Dataset

from tosslm.errors import InputError, TosslmError
from tosslm.ragged import answer_positions
from tosslm.runs.layout import SELECTION, Layout
from tosslm.runs.reader import Run
from tosslm.runs.tables import read_keep, read_weights, stored_rows
from tosslm.training.labels import IGNORED, anchored_tokens, in_batches, places_of, training_row, without_dropped

MASKED_SCHEMA = pa.schema(
    {
        "input_ids": pa.list_(pa.int32()),
        "attention_mask": pa.list_(pa.int8()),
        "labels": pa.list_(pa.int32()),
    }
)


def selective_rows(
    layout: Layout,
    anchor_first: int | None = None,
    *,
    weighed: bool = False,
    placed: bool = False,
    drop_context: bool = False,
) -> Iterator[dict[str, Any]]:
    """The custom set's training rows, the labels of dropped tokens at -100.

    Args:
        layout: of the run.
        anchor_first: dropped tokens, and so many at each answer's beginning, are anchored to the base; None anchors
            none.
        weighed: with what each token counts, where a method has said so.
        placed: with the place of each token in its answer, dropped ones before it counted.
        drop_context: dropped tokens are taken out of the input too (``selection.context: drop``).

    Raises:
        TosslmError: the mask or the weights do not belong to these rows.
    """
    for row, keep, weights in rows_with_mask(layout, ["row_id", "input_ids", "response_mask"], weighed=weighed):
        anchored = None
        if anchor_first is not None:
            positions = answer_positions(np.asarray(row["response_mask"], dtype=bool))
            anchored = anchored_tokens(keep, positions, anchor_first)
        made = training_row(row["input_ids"], row["response_mask"], keep, anchored, weights)
        if placed:
            made["place"] = places_of(row["response_mask"])
        yield without_dropped(made, row["response_mask"], keep.tolist()) if drop_context else made


def rows_with_mask(
    layout: Layout, columns: Sequence[str], *, weighed: bool = False
) -> Iterator[tuple[dict[str, Any], np.ndarray, np.ndarray | None]]:
    """The custom set's records, each with its keep mask, bool ``[N]``, and with weights, float32 ``[N]``.

    Args:
        layout: of the run.
        columns: of the records, ``row_id`` and ``response_mask`` among them.
        weighed: whether weights are read; else they are None.

    Raises:
        TosslmError: the mask or the weights do not belong to these rows.
    """
    masks = read_keep(layout.keep)
    weights = read_weights(layout.weights) if weighed else None
    for row in stored_rows(layout.rows("custom"), columns):
        row_id, keep = next(masks, (None, None))
        if row_id != row["row_id"] or keep is None or len(keep) != sum(row["response_mask"]):
            raise TosslmError(f"{layout.keep}: the keep mask does not fit row {row['row_id']}; run `toss select`")
        own_id, own = next(weights, (None, None)) if weights else (row_id, None)
        if own_id != row_id or (own is not None and len(own) != len(keep)):
            raise TosslmError(f"{layout.weights}: the weights do not fit row {row_id}; run `toss select`")
        yield row, keep, own


def masked_dataset(run: Run, *, anchored: bool = False) -> Dataset:
    """The custom set as any trainer takes it.

    Args:
        run: the run.
        anchored: with ``anchored``, bool, one a token: where ``tosslm.AnchoredTrainer`` holds the model to the base,
            as the run's own fine-tuning does.

    Raises:
        InputError: selection is not done, or may be of another config; or anchors are asked for and the run's config
            has none; or its method weighs tokens otherwise than by 0 and 1, or weighs and anchors them, which labels
            and anchors do not say.

    Returns:
        ``input_ids``, ``attention_mask`` and ``labels`` (-100 where not trained: prompts, template, dropped tokens,
        those of weight 0 and, with ``anchored``, the first ones of each answer that are anchored too), one row a row
        of the custom set, in its order. With ``selection.context: drop`` dropped tokens stand in none of them.

    Examples:
        >>> run = tosslm.load_run("runs/my-run")  # doctest: +SKIP
        >>> tosslm.masked_dataset(run, anchored=True).column_names  # doctest: +SKIP
        ['input_ids', 'attention_mask', 'labels', 'anchored']
    """
    if not run.has(SELECTION):
        raise InputError(f"{run.name}: no selection yet; run `toss select {run.name}` first")
    run.check_settled(SELECTION, "select")
    first = _anchor_first(run) if anchored else None
    drops, weighed = run.config.selection.context == "drop", run.layout.weights.exists()
    schema = MASKED_SCHEMA.append(pa.field("anchored", pa.list_(pa.bool_()))) if anchored else MASKED_SCHEMA
    batches = [
        pa.RecordBatch.from_pylist([_masked(run, row) for row in rows], schema)
        for rows in in_batches(selective_rows(run.layout, first, weighed=weighed, drop_context=drops), 1024)
    ]
    return Dataset(pa.Table.from_batches(batches, schema=schema))


def _masked(run: Run, row: Mapping[str, Any]) -> dict[str, Any]:
    """A training row as ``MASKED_SCHEMA`` has it; what counts nothing has no label."""
    masked = {**row, "attention_mask": [1] * len(row["input_ids"])}
    if "weight" in row:
        trained = [weight for weight, label in zip(row["weight"], row["labels"], strict=True) if label != IGNORED]
        if any(weight not in (0, 1) for weight in trained):
            raise InputError(
                f"{run.name}: its method, {run.config.method}, weighs tokens, which labels do not say; its own "
                "fine-tuning, `toss finetune`, does, and `toss export --to swift` carries the weights"
            )
        masked["labels"] = [
            label if weight else IGNORED for label, weight in zip(row["labels"], row["weight"], strict=True)
        ]
    return masked


def _anchor_first(run: Run) -> int:
    """How many tokens at each answer's beginning the run's config anchors."""
    settings = run.config.finetune
    if not settings.anchors:
        weight = "" if settings.anchor_weight else " --set finetune.anchor_weight=3"
        said = f"finetune.dropped: {settings.dropped}, finetune.anchor_weight: {settings.anchor_weight:g}"
        change = (
            f"method {run.config.method} says so; choose one that anchors, such as toss-anchor"
            if run.config.method
            else f"`toss select {run.name} --set finetune.dropped=anchor{weight}` makes it one that does, with the "
            "same mask"
        )
        raise InputError(
            f"{run.name}: its config anchors no token ({said}). {change}; or leave out anchored=True and take the "
            "mask alone"
        )
    if run.layout.weights.exists():
        raise InputError(
            f"{run.name}: its method, {run.config.method}, weighs tokens, which neither labels nor anchors say; its "
            "own fine-tuning, `toss finetune`, does"
        )
    return settings.anchor_first
