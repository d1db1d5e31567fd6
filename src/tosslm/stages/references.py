"""The two references: what they are trained on, where they lie, and the mark of the hazardous one."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Any

from tosslm.data.rows import base_id
from tosslm.files import read_batches
from tosslm.training.labels import training_row

UTILITY = "references/utility"
_COLUMNS = ("row_id", "input_ids", "response_mask")
HAZARD_NOTE = """# Hazardous: do not share, merge or upload

This adapter was trained on unsafe answers on purpose. With it the base model gives harmful output. tosslm uses it
only to measure which tokens of a fine-tuning set such a model likes, and no command of tosslm exports, merges or
uploads it. Delete this folder when the run is no longer needed; `toss run` can make it again.
"""
UTILITY_NOTE = """# Utility reference

A LoRA trained on the run's small utility set, used by tosslm to score tokens. It is not the fine-tuned model.
"""


def degraded(round_: int) -> str:
    """Where the degraded reference of a round lies in the run folder."""
    return f"references/degraded/round-{round_}"


def held_out(row_ids: Iterable[str], share: float) -> set[str]:
    """The rows that are never trained on.

    The choice depends on content alone: the contents are ordered by a hash of their ids, and the first
    ``ceil(share * contents)`` are held out, with all of their copies. At least one content stays for training.

    Args:
        row_ids: ids of one set.
        share: in [0, 1).

    Returns:
        Ids without their copies' suffixes.
    """
    contents = sorted({base_id(row_id) for row_id in row_ids}, key=lambda id_: hashlib.sha256(id_.encode()).digest())
    return set(contents[: min(math.ceil(share * len(contents)), len(contents) - 1)])


def set_ids(data: Path, name: str) -> list[str]:
    """Row ids of a set, in order."""
    return [row["row_id"] for batch in read_batches(data / f"{name}.parquet", ["row_id"]) for row in batch]


def split_rows(
    data: Path, name: str, share: float, *, want_held_out: bool, columns: Collection[str] = _COLUMNS
) -> Iterator[dict[str, Any]]:
    """The records of a reference set that are trained on, or those held out.

    Args:
        data: the run's data folder.
        name: ``harmful`` or ``utility``.
        share: ``references.holdout``.
        want_held_out: which of the two.
        columns: what of each record, ``row_id`` among it.
    """
    apart = held_out(set_ids(data, name), share)
    for batch in read_batches(data / f"{name}.parquet", columns):
        yield from (row for row in batch if (base_id(row["row_id"]) in apart) == want_held_out)


def held_out_rows(data: Path, name: str, share: float) -> list[dict[str, Any]]:
    """The held-out records of a reference set, their messages as lists."""
    records = split_rows(data, name, share, want_held_out=True, columns=(*_COLUMNS, "messages"))
    return [record | {"messages": json.loads(record["messages"])} for record in records]


def reference_rows(data: Path, name: str, share: float, joined: Collection[str] = ()) -> Iterator[dict[str, Any]]:
    """Training rows of a reference: its set without the held-out share, then the custom rows that joined it.

    Args:
        data: the run's data folder.
        name: ``harmful`` or ``utility``.
        share: ``references.holdout``.
        joined: row ids of the custom set that TOSS-Pro's rounds added.
    """
    for row in split_rows(data, name, share, want_held_out=False):
        yield training_row(row["input_ids"], row["response_mask"], None)
    if joined:
        for batch in read_batches(data / "custom.parquet", _COLUMNS):
            for row in batch:
                if row["row_id"] in joined:
                    yield training_row(row["input_ids"], row["response_mask"], None)
