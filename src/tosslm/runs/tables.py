"""The tables of a run folder: what their columns are, and how they are read, as streams.

Everything goes through ``files.read_tables``, which checks the checksum of every page.
"""

from __future__ import annotations

import gc
import json
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tosslm.data.rows import base_id, held_out
from tosslm.errors import TosslmError
from tosslm.files import parquet_writer, read_batches, read_tables
from tosslm.ragged import row_starts, split_rows

_TEXT, _INT, _FLOAT = pa.string(), pa.int64(), pa.float64()
_INTS, _FLOATS, _BOOLS = pa.list_(pa.int32()), pa.list_(pa.float32()), pa.list_(pa.bool_())
_SPANS = pa.list_(_INTS)
DATA_SCHEMA = pa.schema(
    {"row_id": _TEXT, "origin": _TEXT, "source": _TEXT, "messages": _TEXT}
    | {"input_ids": _INTS, "response_mask": _BOOLS, "offsets": _SPANS, "unsafe_spans": _SPANS}
)
BLOCK_SCHEMA = pa.schema(
    {"asked": _TEXT, "input_ids": _INTS, "response_mask": _BOOLS, "offsets": _SPANS, "truncated": pa.bool_()}
    | {"lost": _SPANS, "reason": _TEXT, "remedy": _TEXT}
)
"""Of rows that a shard has tokenised; ``stages/blocks.py`` says what they are."""
PROXY_SCHEMA = pa.schema({"row_id": _TEXT, "input_ids": _INTS, "response_mask": _BOOLS, "offsets": _SPANS})
SCORE_SCHEMA = pa.schema({"row_id": _TEXT, "position": _INTS, "loss_degraded": _FLOATS, "loss_utility": _FLOATS})
HELDOUT_SCHEMA = SCORE_SCHEMA.append(pa.field("set", _TEXT))
KEEP_SCHEMA = pa.schema({"row_id": _TEXT, "keep": _BOOLS})
WEIGHTS_SCHEMA = pa.schema({"row_id": _TEXT, "weight": _FLOATS})
EVIDENCE_SCHEMA = pa.schema({"row_id": _TEXT, "evidence": _FLOATS})
MEASURES = ("kl", "shift", "loss")
"""Of the diagnosis, at each position; ``diagnosis/divergence.py`` says what they are."""
LEAST_SHIFT = 0.01
"""Nats a token; a share of a shift that is less, or not clearly above 0, says nothing and is not told."""
DIAGNOSED_ROWS_SCHEMA = pa.schema({"row_id": _TEXT, "set": _TEXT, "model": _TEXT} | dict.fromkeys(MEASURES, _FLOATS))
POSITIONS_SCHEMA = pa.schema(
    {"set": _TEXT, "model": _TEXT, "measure": _TEXT, "position": _INT}
    | {"mean": _FLOAT, "low": _FLOAT, "high": _FLOAT, "n": _INT}
)
DROPPED_SCHEMA = pa.schema({"by": _TEXT, "key": _TEXT, "tokens": _INT, "dropped": _INT, "mean_score": _FLOAT})

Parts = Iterator[tuple[list[str], np.ndarray, np.ndarray]]
"""Row ids; the response tokens of each row, int64 ``[R]``; and a value for each token, ``[N]``, rows in turn."""
ROWS_PER_WRITE = 1024
TOKENS_PER_WRITE = 500_000
TRAINED_COLUMNS = ("row_id", "input_ids", "response_mask")


def stored_rows(path: Path, columns: Iterable[str] | None = None) -> Iterator[dict[str, Any]]:
    """The records of a set, of a part, or of the diagnosis, one by one."""
    for batch in read_batches(path, columns):
        yield from batch


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]], schema: pa.Schema, step_fingerprint: str) -> None:
    """Write tokenised rows as they come, of which no more than a row group's are held."""
    # Rows are many small lists, and Python looks for garbage the more often: not among all libraries each time.
    gc.freeze()
    try:
        with parquet_writer(path, schema, step_fingerprint) as writer:
            for group in _groups(rows):
                writer.write_table(pa.Table.from_pylist(group, schema=writer.schema))
                del group  # before the next one is made
    finally:
        gc.unfreeze()


def _groups(rows: Iterable[Mapping[str, Any]]) -> Iterator[list[Mapping[str, Any]]]:
    pending: list[Mapping[str, Any]] = []
    pending_tokens = 0
    for row in rows:
        pending.append(row)
        pending_tokens += len(row["input_ids"])
        if len(pending) == ROWS_PER_WRITE or pending_tokens > TOKENS_PER_WRITE:
            yield pending
            pending, pending_tokens = [], 0
    yield pending


def row_ids(path: Path) -> list[str]:
    """Row ids of a set, in order."""
    return [row["row_id"] for row in stored_rows(path, ["row_id"])]


def reference_rows(
    path: Path, share: float, *, want_held_out: bool, columns: Collection[str] = TRAINED_COLUMNS
) -> Iterator[dict[str, Any]]:
    """The records of a reference set that are trained on, or those held out.

    Args:
        path: the set's file.
        share: ``references.holdout``.
        want_held_out: which of the two.
        columns: what of each record, ``row_id`` among it.
    """
    apart = held_out(row_ids(path), share)
    for row in stored_rows(path, columns):
        if (base_id(row["row_id"]) in apart) == want_held_out:
            yield row


def held_out_rows(path: Path, share: float) -> list[dict[str, Any]]:
    """The held-out records of a reference set, their messages as lists."""
    records = reference_rows(path, share, want_held_out=True, columns=(*TRAINED_COLUMNS, "messages", "offsets"))
    return [record | {"messages": json.loads(record["messages"])} for record in records]


def part_name(number: int) -> str:
    """The file of a part of a round's scores."""
    return f"part-{number:05d}.parquet"


def part_files(folder: Path) -> list[Path]:
    """The parts of a round's scores, in the order of the custom set."""
    return sorted(folder.glob("part-*.parquet"), key=lambda path: int(path.stem.removeprefix("part-")))


def read_losses(folder: Path) -> Iterator[tuple[list[str], np.ndarray, np.ndarray, np.ndarray]]:
    """Stream a round's losses, one part at a time.

    Yields:
        The part's row ids; the response tokens of each row, int64 ``[R]``; and ``loss_utility`` and
        ``loss_degraded`` of all its tokens, float32 ``[N]``, rows one after the other.
    """
    for path in part_files(folder):
        table = pa.concat_tables(read_tables(path, ["row_id", "loss_degraded", "loss_utility"]))
        losses = (flat_values(table[name]) for name in ("loss_utility", "loss_degraded"))
        yield table["row_id"].to_pylist(), row_lengths(table["loss_utility"]), *losses


def read_scores(folder: Path) -> Parts:
    """Stream a round's scores, ``loss_utility - loss_degraded``, float32, one part at a time."""
    for ids, lengths, utility, degraded in read_losses(folder):
        yield ids, lengths, utility - degraded


def finite_scores(folder: Path) -> Parts:
    """As ``read_scores``, but refuses a score that is no number.

    Raises:
        TosslmError: names row and response token.
    """
    return weighted_scores(folder, 1.0, 1.0)


def weighted_scores(folder: Path, alpha: float, beta: float) -> Parts:
    """Stream ``alpha * loss_utility - beta * loss_degraded``, float32, one part at a time.

    Args:
        folder: a round's.
        alpha: what the utility loss counts; 1 and 1 make the scores themselves, to the bit.
        beta: what the degraded loss counts.

    Raises:
        TosslmError: as ``finite_scores``.
    """
    for ids, lengths, utility, degraded in read_losses(folder):
        yield ids, lengths, finite_part(ids, lengths, np.float32(alpha) * utility - np.float32(beta) * degraded)


def finite_part(ids: Sequence[str], lengths: np.ndarray, part: np.ndarray) -> np.ndarray:
    """The scores of some rows, ``[N]``, as they are.

    Args:
        ids: of the rows.
        lengths: int ``[R]``, scores of each.
        part: the scores.

    Raises:
        TosslmError: as ``finite_scores``.
    """
    finite = np.isfinite(part)
    if not finite.all():
        token = int(np.argmin(finite))
        row = int(np.searchsorted(np.cumsum(lengths), token, side="right"))
        place = token - int(lengths[:row].sum())
        raise TosslmError(
            f"row {ids[row]}, response token {place}: the score is {part[token]}; a reference computes no "
            "number there: train it with a lower learning_rate, or use model.dtype float32"
        )
    return part


def each_once(rows: Iterable[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
    """Held-out rows, each content of a set once."""
    met: set[tuple[str, str]] = set()
    for row in rows:
        content = (row["set"], base_id(row["row_id"]))
        if content not in met:
            met.add(content)
            yield row


def held_out_scores(path: Path, of: Callable[[str], bool] = lambda _: True) -> dict[str, list[np.ndarray]]:
    """Scores of the held-out rows, float32, one array a row, under ``harmful`` and ``utility``; each content once.

    Copies of a row say what it says: counted again, they would make a test against chance pass by itself.

    Args:
        path: the file.
        of: which rows, by the id of their content.
    """
    scores: dict[str, list[np.ndarray]] = {"harmful": [], "utility": []}
    for row in each_once(stored_rows(path, ["row_id", "set", "loss_degraded", "loss_utility"])):
        if of(base_id(row["row_id"])):
            utility, degraded = (
                np.asarray(row[f"loss_{name}"], dtype=np.float32) for name in ("utility", "degraded")
            )
            scores[row["set"]].append(utility - degraded)
    return scores


def read_evidence(path: Path) -> Parts:
    """Stream evidence in context, float32, as ``read_scores`` streams scores."""
    for table in read_tables(path):
        yield table["row_id"].to_pylist(), row_lengths(table["evidence"]), flat_values(table["evidence"])


def read_keep(path: Path) -> Iterator[tuple[str, np.ndarray]]:
    """Stream a keep mask: row id and bool ``[N]``, one value a response token."""
    for row in stored_rows(path):
        yield row["row_id"], np.asarray(row["keep"], dtype=bool)


def read_weights(path: Path) -> Iterator[tuple[str, np.ndarray]]:
    """Stream token weights: row id and float32 ``[N]``, one value a response token."""
    for row in stored_rows(path):
        yield row["row_id"], np.asarray(row["weight"], dtype=np.float32)


def by_row(parts: Parts) -> Iterator[np.ndarray]:
    """The values of parts, one array a row."""
    for _, lengths, values in parts:
        yield from split_rows(values, lengths)


def list_column(values: np.ndarray, lengths: np.ndarray) -> pa.ListArray:
    """A column with a list a row.

    Args:
        values: ``[N]``, rows one after the other.
        lengths: int ``[R]``; they add up to ``N``.
    """
    return pa.ListArray.from_arrays(pa.array(row_starts(lengths).astype(np.int32)), pa.array(values))


class RowsInTurn:
    """A Parquet file, so many rows at a time: for files whose row groups are not those of the parts beside them.

    Args:
        path: the file.
        columns: of it; all by default.
    """

    def __init__(self, path: Path, columns: Iterable[str] | None = None) -> None:
        self._tables = read_tables(path, columns)
        self._left: pa.Table | None = None

    def take(self, rows: int) -> pa.Table | None:
        """The next so many rows, from 1; None where so many are not left.

        Raises:
            TosslmError: the file is missing or damaged.
        """
        taken, missing = [], rows
        while missing:
            table = next(self._tables, None) if self._left is None else self._left
            if table is None:
                return None
            taken.append(table.slice(0, missing))
            self._left = table.slice(missing) if len(table) > missing else None
            missing -= len(taken[-1])
        return pa.concat_tables(taken)


def read_joined(path: Path) -> list[str]:
    """Ids of the custom rows that joined the harmful set in a round, in the order they were met."""
    found: list[str] = json.loads(path.read_text(encoding="utf-8"))["row_ids"]
    return found


def row_lengths(column: pa.ChunkedArray) -> np.ndarray:
    """Values of each row of a column of lists: int64 ``[R]``."""
    return pc.list_value_length(column).to_numpy().astype(np.int64)


def flat_values(column: pa.ChunkedArray) -> np.ndarray:
    """All values of a column of lists, rows one after the other: ``[N]``."""
    return pc.list_flatten(column).to_numpy()
