"""The data stage: rows in any format become one Parquet file of tokenised rows for each set.

What takes the time is the tokenizer, so shards may ask it beforehand (``stages/data_share.py``).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Any, TextIO

from tosslm.config import Config, DataConfig, covered
from tosslm.data.own_utility import check_folds, rows_dealt
from tosslm.data.rows import BadRow, file_names, held_out, source_rows
from tosslm.data.sets import SetCounts, prepared_rows, source_checksums
from tosslm.data.shared import REFERENCES, Shared
from tosslm.errors import InputError, TosslmError
from tosslm.files import atomic_path, fingerprint
from tosslm.methods.method import Method
from tosslm.runs.layout import DATA, SETS
from tosslm.runs.recorded import Mark
from tosslm.runs.tables import DATA_SCHEMA, row_ids, stored_rows, write_rows
from tosslm.stages.blocks import ROWS_PER_BLOCK, Blocks
from tosslm.stages.step import Facts, Stage, Step
from tosslm.workbench import Workbench

if TYPE_CHECKING:
    from tosslm.model.base import Base


def _steps(config: Config, method: Method, before: Sequence[Step]) -> list[Step]:
    return [data_step()]


STAGE = Stage("data", (DATA,), _steps)


def data_step(rows_per_block: int = ROWS_PER_BLOCK) -> Step:
    """The three sets in the base's tokens, some of which shards may have made, in blocks of so many rows."""
    return Step(DATA, "data", 1, (), lambda bench, mark: _prepare(bench, mark, rows_per_block), _covers)


def data_print(config: Config, base: Base) -> str:
    """Fingerprint of the data stage of a config whose data and base are as they lie there now."""
    return fingerprint(data_step().version, *_parts(config, base), {})


def _covers(bench: Workbench) -> list[Any]:
    return _parts(bench.config, bench.base)


def _parts(config: Config, base: Base) -> list[Any]:
    dealt = [config.references.holdout] if config.data.utility.of_custom else []
    return [covered(config.data), _checksums(config.data), base.identity, *dealt]


def _checksums(config: DataConfig) -> dict[str, list[str]]:
    return {name: source_checksums(source) for name, source in config.sources.items()}


def _prepare(bench: Workbench, mark: Mark, rows_per_block: int) -> Facts:
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
    _tell_of_others(bench, mark)
    blocks = Blocks(layout, mark, rows_per_block)
    with atomic_path(layout.bad_rows) as listing, listing.open("w", encoding="utf-8") as bad_rows:
        takes = _dealt(bench, counts, mark, blocks) if config.utility.of_custom else {}
        for name, source in config.sources.items():
            counts[name] = SetCounts()
            rows = _good_rows(bench, name, counts[name], bad_rows, blocks, takes.get(name))
            write_rows(layout.rows(name), rows, DATA_SCHEMA, mark.fingerprint)
            if not counts[name].rows:
                raise InputError(f"data.{name}: {source.path} has no usable row; name a file with rows in it")
            short = f" (of data.{name}.limit: {source.limit})" if 0 < counts[name].rows < (source.limit or 0) else ""
            bench.reporter.say(
                f"{name}: {counts[name].rows} rows{short}, {counts[name].response_tokens:,} response tokens"
            )
    if not any(one.bad for one in counts.values()):
        layout.bad_rows.unlink()
    checksums: dict[str, list[str]] = mark.covered[1]
    if checksums != _checksums(config):  # the fingerprint is of the bytes that were read
        raise TosslmError("data: a file changed while it was read; run again when nobody writes to it")
    if blocks.taken:
        bench.reporter.say(f"data: shards had tokenised {blocks.taken} of the rows")
    files = {name: file_names(source.path) for name, source in config.sources.items()}
    return {
        "sets": {name: asdict(counts[name]) for name in SETS},
        "sources": {name: dict(zip(names, checksums[name], strict=True)) for name, names in files.items()},
        **({"template_told": habits} if habits else {}),
        **({"shared": found} if (found := _shared(bench)) else {}),
        **({"rows_from_shards": blocks.taken} if blocks.taken else {}),
    }


def _shared(bench: Workbench) -> dict[str, Any]:
    """Contents that several sets have."""
    shared = Shared()
    for name in (*REFERENCES, "custom"):
        if name in bench.config.data.sources:
            for row in stored_rows(bench.layout.rows(name), ["row_id"]):
                shared.add(name, row["row_id"])
    return shared.counts()


def _dealt(
    bench: Workbench, counts: dict[str, SetCounts], mark: Mark, blocks: Blocks
) -> dict[str, Callable[[str], bool]]:
    """Write ``utility.parquet`` of rows of the custom set; which rows of that are left to fine-tune on, by content.

    Bad rows are told of when the custom set itself is read.
    """
    config, layout, share = bench.config.data, bench.layout, bench.config.references.holdout
    key, most = "data.custom", config.max_row_bytes
    read = partial(prepared_rows, config.custom, bench.tokenizer, max_row_bytes=most, key=key)
    everything = source_rows(config.custom, most, key=key)
    dealt = rows_dealt((row.row_id for row in everything if not isinstance(row, BadRow)), config.utility.rows)
    found = SetCounts()
    chosen = read(found, takes=dealt.__contains__, known=blocks.of("custom"))
    rows = (row for row in chosen if not isinstance(row, BadRow))
    write_rows(layout.rows("utility"), rows, DATA_SCHEMA, mark.fingerprint)
    found.bad = 0
    counts["utility"] = found
    if not found.rows:
        return {}  # which the custom set says, and why
    apart = held_out(row_ids(layout.rows("utility")), share)
    check_folds(row_ids(layout.rows("utility")), apart)
    bench.reporter.say(
        f"utility: {found.rows} rows of the custom set stand in; {len(apart)} contents of them are held out, and are "
        "left out of the custom set"
    )
    return {"custom": lambda content: content not in apart}


def _good_rows(
    bench: Workbench,
    name: str,
    counts: SetCounts,
    bad_rows: TextIO,
    blocks: Blocks,
    takes: Callable[[str], bool] | None,
) -> Iterator[dict[str, Any]]:
    config = bench.config.data
    for row in prepared_rows(
        config.sources[name],
        bench.tokenizer,
        counts,
        max_row_bytes=config.max_row_bytes,
        takes=takes or (lambda _: True),
        known=blocks.of(name),
        key=f"data.{name}",
    ):
        if not isinstance(row, BadRow):
            yield row
        else:
            leave_out(bench, name, row)
            bad_rows.write(json.dumps({"set": name, **asdict(row)}, ensure_ascii=False) + "\n")


def leave_out(bench: Workbench, name: str, row: BadRow) -> None:
    """Do without a bad row.

    Raises:
        InputError: ``data.on_bad_row`` wants none.
    """
    if bench.config.data.on_bad_row == "error":
        raise InputError(
            f"data.{name}: {row.origin}: {row.reason}; {row.remedy}. `toss plan` lists all such "
            "rows; data.on_bad_row: skip leaves them out"
        )


def _tell_of_others(bench: Workbench, mark: Mark) -> None:
    """Say so where shards worked for nothing."""
    folders = {file.parent.name for file in bench.layout.staged(DATA).glob("*/[!.]*.parquet")}
    if folders - {mark.fingerprint}:
        bench.reporter.say(
            "data: shards tokenised rows for another config, other data, or another base or dtype than this process "
            "has (model.dtype: auto may choose differently on another machine); those are not taken"
        )
