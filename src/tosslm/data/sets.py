"""The data stage: rows in any format become one Parquet file of tokenised rows for each set."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from tosslm.config import DataConfig, SourceConfig
from tosslm.data.rows import BadRow, Row, raw_files, read_rows
from tosslm.data.tokenize import RowTokenizer
from tosslm.errors import InputError, RowError
from tosslm.files import atomic_path, parquet_writer, sha256
from tosslm.progress import Reporter

SETS = ("custom", "harmful", "utility")
ROWS_PER_WRITE = 1024
TOKENS_PER_WRITE = 500_000
_SPANS = pa.list_(pa.list_(pa.int32()))
DATA_SCHEMA = pa.schema(
    [
        ("row_id", pa.string()),
        ("origin", pa.string()),
        ("source", pa.string()),
        ("messages", pa.string()),
        ("input_ids", pa.list_(pa.int32())),
        ("response_mask", pa.list_(pa.bool_())),
        ("offsets", _SPANS),
        ("unsafe_spans", _SPANS),
    ]
)


@dataclass(slots=True)
class SetCounts:
    """What a set holds.

    Attributes:
        rows: rows taken.
        tokens: tokens in them.
        response_tokens: response tokens in them.
        longest: tokens of the longest row.
        truncated: rows cut to ``max_length``.
        repeated: rows whose content stood in the set before.
        marked: rows whose unsafe text is marked.
        bad: rows left out.
        sources: rows of each source.
    """

    rows: int = 0
    tokens: int = 0
    response_tokens: int = 0
    longest: int = 0
    truncated: int = 0
    repeated: int = 0
    marked: int = 0
    bad: int = 0
    sources: dict[str, int] = field(default_factory=dict)


def prepared_rows(
    source: SourceConfig, tokenizer: RowTokenizer, counts: SetCounts
) -> Iterator[dict[str, Any] | BadRow]:
    """Read and tokenise one set, row by row, counting as it goes.

    Yields:
        A record of ``DATA_SCHEMA``, or the reason why a row cannot be used.
    """
    for row in read_rows(source.path, format=source.format, field=source.field, split=source.split):
        if isinstance(row, BadRow):
            counts.bad += 1
            yield row
            continue
        try:
            tokens = tokenizer(row.messages)
        except RowError as error:
            counts.bad += 1
            yield BadRow(row.origin, error.reason, error.remedy)
            continue
        counts.rows += 1
        counts.tokens += len(tokens.input_ids)
        counts.response_tokens += sum(tokens.response_mask)
        counts.longest = max(counts.longest, len(tokens.input_ids))
        counts.truncated += tokens.truncated
        counts.repeated += "-" in row.row_id
        counts.marked += row.unsafe_spans is not None
        counts.sources[row.source] = counts.sources.get(row.source, 0) + 1
        yield _record(row, tokens)


def _record(row: Row, tokens: Any) -> dict[str, Any]:
    return {
        "row_id": row.row_id,
        "origin": row.origin,
        "source": row.source,
        "messages": json.dumps(row.messages, ensure_ascii=False),
        "input_ids": tokens.input_ids,
        "response_mask": tokens.response_mask,
        "offsets": tokens.offsets,
        "unsafe_spans": row.unsafe_spans,
    }


def source_files(source: SourceConfig) -> dict[str, str]:
    """SHA-256 of each file of a set by its path, in order; empty for a hub id."""
    return {str(file): sha256(file) for file in raw_files(source.path)}


def source_checksums(source: SourceConfig) -> list[str]:
    """SHA-256 of each file of a set, in order: what a set is, wherever it lies."""
    return list(source_files(source).values())


def prepare_data(
    config: DataConfig, tokenizer: RowTokenizer, folder: Path, step_fingerprint: str, reporter: Reporter
) -> dict[str, Any]:
    """Write ``{custom,harmful,utility}.parquet``, and ``bad_rows.jsonl`` where rows were skipped.

    Returns:
        Facts for the manifest: the counts of each set.

    Raises:
        InputError: a row is bad and ``on_bad_row`` is ``error``, or a set has no rows.
    """
    all_counts: dict[str, SetCounts] = {}
    with atomic_path(folder / "bad_rows.jsonl") as listing, listing.open("w", encoding="utf-8") as bad_rows:
        for name in SETS:
            counts = all_counts[name] = SetCounts()
            source: SourceConfig = getattr(config, name)
            with parquet_writer(folder / f"{name}.parquet", DATA_SCHEMA, step_fingerprint) as writer:
                pending: list[dict[str, Any]] = []
                pending_tokens = 0
                for row in prepared_rows(source, tokenizer, counts):
                    if isinstance(row, BadRow):
                        if config.on_bad_row == "error":
                            raise InputError(
                                f"data.{name}: {row.origin}: {row.reason}; {row.remedy}. `toss plan` lists all such "
                                "rows; data.on_bad_row: skip leaves them out"
                            )
                        entry = {
                            "set": name,
                            "origin": row.origin,
                            "reason": row.reason,
                            "remedy": row.remedy,
                        }
                        bad_rows.write(json.dumps(entry, ensure_ascii=False) + "\n")
                        continue
                    pending.append(row)
                    pending_tokens += len(row["input_ids"])
                    if len(pending) == ROWS_PER_WRITE or pending_tokens > TOKENS_PER_WRITE:
                        writer.write_table(pa.Table.from_pylist(pending, schema=writer.schema))
                        pending, pending_tokens = [], 0
                writer.write_table(pa.Table.from_pylist(pending, schema=writer.schema))
            if not counts.rows:
                raise InputError(f"data.{name}: {source.path} has no usable row; name a file with rows in it")
            reporter.say(f"{name}: {counts.rows} rows, {counts.response_tokens:,} response tokens")
    if not any(counts.bad for counts in all_counts.values()):
        (folder / "bad_rows.jsonl").unlink()
    return {"sets": {name: _as_dict(counts) for name, counts in all_counts.items()}}


def _as_dict(counts: SetCounts) -> dict[str, Any]:
    return {name: getattr(counts, name) for name in SetCounts.__slots__}
