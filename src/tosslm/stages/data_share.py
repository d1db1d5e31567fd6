"""A shard of the data stage: what the tokenizer says of a share of the rows, for the run's writer to take.

Each shard reads all rows, as the writer does: only that tells which block a row is of, and reading is quick beside
tokenising (``benchmarks/data_shards.py`` times both).
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from typing import Any

from tosslm.data.rows import BadRow, Row, source_rows
from tosslm.files import is_whole, make_private
from tosslm.runs.recorded import Mark
from tosslm.runs.staged import make_stage
from tosslm.runs.tables import BLOCK_SCHEMA, write_rows
from tosslm.stages.blocks import ROWS_PER_BLOCK, block_name, block_row
from tosslm.stages.data import leave_out
from tosslm.stages.shard import Shard
from tosslm.stages.step import Facts
from tosslm.workbench import Workbench


def data_share(bench: Workbench, mark: Mark, shard: Shard, rows_per_block: int = ROWS_PER_BLOCK) -> Facts:
    """Tokenise a shard's share of the blocks; the same tokens, whoever makes them.

    Args:
        bench: of the run.
        mark: of its data.
        shard: which share. Blocks are numbered through all sources.
        rows_per_block: as the writer has it.

    Returns:
        How many files are the shard's, how many it wrote now, and the tokens in those.

    Raises:
        InputError: as the step, of the rows that this shard sees.
    """
    stage = make_stage(bench.layout, mark)
    facts = {"files": 0, "written": 0, "tokens": 0}
    with bench.reporter.task(f"tokenising, shard {shard}", 0) as task:
        for number, (name, block, rows) in enumerate(_blocks(bench, rows_per_block)):
            if not shard.has(number):
                continue
            facts["files"] += 1
            path = stage / block_name(name, block)
            if is_whole(path, mark.fingerprint):
                continue
            counts = {"rows": 0, "tokens": 0}
            write_rows(path, _tokenized(bench, name, rows, counts), BLOCK_SCHEMA, mark.fingerprint)
            make_private(path)
            facts["written"] += 1
            facts["tokens"] += counts["tokens"]
            task.advance(counts["rows"], counts["tokens"])
    return facts


def _blocks(bench: Workbench, rows_per_block: int) -> Iterator[tuple[str, int, Iterator[Row]]]:
    """The source of each block, its number there, and its rows, which are read as they are asked for."""
    config = bench.config.data
    for name, source in config.sources.items():
        rows = _good(bench, name, source_rows(source, config.max_row_bytes, key=f"data.{name}"))
        for block, numbered in groupby(enumerate(rows), lambda one: one[0] // rows_per_block):
            yield name, block, (row for _, row in numbered)


def _good(bench: Workbench, name: str, rows: Iterator[Row | BadRow]) -> Iterator[Row]:
    for row in rows:
        if isinstance(row, BadRow):
            leave_out(bench, name, row)
        else:
            yield row


def _tokenized(bench: Workbench, name: str, rows: Iterator[Row], counts: dict[str, int]) -> Iterator[dict[str, Any]]:
    for row in rows:
        found = block_row(row, bench.tokenizer)
        if found["reason"] is not None:
            leave_out(bench, name, BadRow(row.origin, found["reason"], found["remedy"]))
        counts["rows"] += 1
        counts["tokens"] += len(found["input_ids"])
        yield found
