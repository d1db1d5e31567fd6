"""The data stage: rows in any format become one Parquet file of tokenised rows for each set."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, TextIO

import pyarrow as pa

from tosslm.config import Config, DataConfig, covered
from tosslm.data.own_utility import rows_dealt
from tosslm.data.rows import BadRow, file_names, held_out, source_rows
from tosslm.data.sets import SetCounts, prepared_rows, source_checksums
from tosslm.data.shared import REFERENCES, Shared
from tosslm.errors import InputError, TosslmError
from tosslm.files import atomic_path, parquet_writer
from tosslm.methods.method import Method
from tosslm.runs.layout import DATA, SETS
from tosslm.runs.recorded import Mark
from tosslm.runs.tables import DATA_SCHEMA, row_ids, stored_rows
from tosslm.stages.purposes import PURPOSES
from tosslm.stages.step import Facts, Stage, Step
from tosslm.workbench import Workbench

ROWS_PER_WRITE = 1024
TOKENS_PER_WRITE = 500_000


def _steps(config: Config, method: Method, before: Sequence[Step]) -> list[Step]:
    return [Step(DATA, "data", 1, (), _prepare, _covers)]


STAGE = Stage("data", PURPOSES["data"], (DATA,), _steps)


def _covers(bench: Workbench) -> list[Any]:
    config = bench.config.data
    dealt = [bench.config.references.holdout] if config.utility.of_custom else []
    return [covered(config), _checksums(config), bench.base.identity, *dealt]


def _checksums(config: DataConfig) -> dict[str, list[str]]:
    return {name: source_checksums(source) for name, source in config.sources.items()}


def _prepare(bench: Workbench, mark: Mark) -> Facts:
    """Write ``{custom,harmful,utility}.parquet``, and ``bad_rows.jsonl`` where rows were skipped.

    Where rows of the custom set stand in for a utility set, those are written into both files, but for the held-out
    ones, which nothing is to be trained on.

    Raises:
        InputError: a row is bad and ``on_bad_row`` is ``error``, or a set has no rows.
    """
    from tosslm.data.habits import template_habits

    config, layout = bench.config.data, bench.layout
    counts: dict[str, SetCounts] = {}
    habits = template_habits(bench.tokenizer)
    for told in habits:
        bench.reporter.say(told)
    with atomic_path(layout.bad_rows) as listing, listing.open("w", encoding="utf-8") as bad_rows:
        takes = _dealt(bench, counts, mark) if config.utility.of_custom else {}
        for name, source in config.sources.items():
            counts[name] = SetCounts()
            rows = _good_rows(bench, name, counts[name], bad_rows, takes.get(name))
            _write(layout.rows(name), rows, mark.fingerprint)
            if not counts[name].rows:
                raise InputError(f"data.{name}: {source.path} has no usable row; name a file with rows in it")
            bench.reporter.say(f"{name}: {counts[name].rows} rows, {counts[name].response_tokens:,} response tokens")
    if not any(one.bad for one in counts.values()):
        layout.bad_rows.unlink()
    checksums: dict[str, list[str]] = mark.covered[1]
    if checksums != _checksums(config):  # the fingerprint is of the bytes that were read
        raise TosslmError("data: a file changed while it was read; run again when nobody writes to it")
    shared = Shared()
    for name in (*REFERENCES, "custom"):
        if name in config.sources:
            for row in stored_rows(layout.rows(name), ["row_id"]):
                shared.add(name, row["row_id"])
    files = {name: file_names(source.path) for name, source in config.sources.items()}
    return {
        "sets": {name: asdict(counts[name]) for name in SETS},
        "sources": {name: dict(zip(names, checksums[name], strict=True)) for name, names in files.items()},
        **({"template_told": habits} if habits else {}),
        **({"shared": found} if (found := shared.counts()) else {}),
    }


def _dealt(bench: Workbench, counts: dict[str, SetCounts], mark: Mark) -> dict[str, Callable[[str], bool]]:
    """Write ``utility.parquet`` of rows of the custom set; which rows of that are left to fine-tune on, by content.

    Bad rows are told of when the custom set itself is read.
    """
    config, layout, share = bench.config.data, bench.layout, bench.config.references.holdout
    key, most = "data.custom", config.max_row_bytes
    read = partial(prepared_rows, config.custom, bench.tokenizer, max_row_bytes=most, key=key)
    everything = source_rows(config.custom, most, key=key)
    dealt = rows_dealt((row.row_id for row in everything if not isinstance(row, BadRow)), config.utility.rows)
    found = SetCounts()
    rows = (row for row in read(found, takes=dealt.__contains__) if not isinstance(row, BadRow))
    _write(layout.rows("utility"), rows, mark.fingerprint)
    found.bad = 0
    counts["utility"] = found
    if not found.rows:
        return {}  # which the custom set says, and why
    apart = held_out(row_ids(layout.rows("utility")), share)
    bench.reporter.say(
        f"utility: {found.rows} rows of the custom set stand in; {len(apart)} contents of them are held out, and are "
        "left out of the custom set"
    )
    return {"custom": lambda content: content not in apart}


def _good_rows(
    bench: Workbench, name: str, counts: SetCounts, bad_rows: TextIO, takes: Callable[[str], bool] | None = None
) -> Iterator[dict[str, Any]]:
    config = bench.config.data
    for row in prepared_rows(
        config.sources[name],
        bench.tokenizer,
        counts,
        max_row_bytes=config.max_row_bytes,
        takes=takes or (lambda _: True),
        key=f"data.{name}",
    ):
        if not isinstance(row, BadRow):
            yield row
        elif config.on_bad_row == "error":
            raise InputError(
                f"data.{name}: {row.origin}: {row.reason}; {row.remedy}. `toss plan` lists all such "
                "rows; data.on_bad_row: skip leaves them out"
            )
        else:
            bad_rows.write(json.dumps({"set": name, **asdict(row)}, ensure_ascii=False) + "\n")


def _write(path: Path, rows: Iterator[dict[str, Any]], fingerprint: str) -> None:
    with parquet_writer(path, DATA_SCHEMA, fingerprint) as writer:
        pending: list[dict[str, Any]] = []
        pending_tokens = 0
        for row in rows:
            pending.append(row)
            pending_tokens += len(row["input_ids"])
            if len(pending) == ROWS_PER_WRITE or pending_tokens > TOKENS_PER_WRITE:
                writer.write_table(pa.Table.from_pylist(pending, schema=writer.schema))
                pending, pending_tokens = [], 0
        writer.write_table(pa.Table.from_pylist(pending, schema=writer.schema))
