"""Blocks of rows that shards of the data stage tokenised, each a file beside the run until its writer takes them.

A block is so many good rows of one source, in order, whatever set they go into. What the tokenizer gave for a row
stands beside a print of what it was asked, so that tokens reach no other row, even of a source that has changed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from tosslm.data.rows import Row
from tosslm.data.sets import Known, tokenized
from tosslm.data.tokenized import TokenizedRow
from tosslm.errors import RowError
from tosslm.files import is_whole, read_tables
from tosslm.ragged import split_rows
from tosslm.runs.layout import Layout
from tosslm.runs.recorded import Mark
from tosslm.runs.tables import flat_values, row_lengths

if TYPE_CHECKING:
    from tosslm.data.tokenize import RowTokenizer

ROWS_PER_BLOCK = 1024
"""About two seconds of work; shards and writer agree on it, or the writer tokenises by itself."""
_NOTHING: dict[str, Any] = {"input_ids": [], "response_mask": [], "offsets": [], "truncated": False, "lost": []}


def block_name(source: str, number: int) -> str:
    """The file of a block of a source."""
    return f"{source}-{number:05d}.parquet"


def block_row(row: Row, tokenizer: RowTokenizer) -> dict[str, Any]:
    """What the tokenizer says of a row, its tokens or why it has none: a record of ``BLOCK_SCHEMA``."""
    asked = {"asked": _asked(row), "reason": None, "remedy": None}
    try:
        tokens = tokenized(row, tokenizer)
    except RowError as error:
        return asked | _NOTHING | {"reason": error.reason, "remedy": error.remedy}
    return asked | {name: getattr(tokens, name) for name in _NOTHING}


class Blocks:
    """What shards have tokenised, for the run's writer to look up.

    Args:
        layout: of the run.
        mark: of its data.
        rows_per_block: good rows of a block.

    Attributes:
        taken: rows whose tokens were found.
    """

    def __init__(self, layout: Layout, mark: Mark, rows_per_block: int = ROWS_PER_BLOCK) -> None:
        self._folder = layout.staged(mark.name, mark.fingerprint)
        self._fingerprint = mark.fingerprint
        self._rows_per_block = rows_per_block
        self.taken = 0

    def of(self, source: str) -> Known:
        """For one reading of a source, whose rows are asked for in order.

        A block is looked for when its turn comes, so that shards may still be at work.
        """
        block, place, rows = -1, 0, _read(None)

        def known(number: int, row: Row) -> TokenizedRow | None:
            nonlocal block, place, rows
            wanted, at = divmod(number, self._rows_per_block)
            if wanted != block:
                path = self._folder / block_name(source, wanted)
                block, place, rows = wanted, 0, _read(path if is_whole(path, self._fingerprint) else None)
            found = next(islice(rows, at - place, None), None)
            place = at + 1
            if found is None or found["asked"] != _asked(row):
                return None
            self.taken += 1
            return _answer(found)

        return known


def _asked(row: Row) -> str:
    """A print of all that the tokenizer is told of a row, down to the order of keys, which a template may write."""
    return hashlib.sha256(json.dumps([row.messages, sorted(row.context), row.unsafe_spans]).encode()).hexdigest()


def _answer(found: dict[str, Any]) -> TokenizedRow:
    if found["reason"] is not None:
        raise RowError(found["reason"], found["remedy"])
    lists = {name: found[name].tolist() for name in ("input_ids", "response_mask", "offsets", "lost")}
    return TokenizedRow(truncated=found["truncated"], **lists)


def _read(path: Path | None) -> Iterator[dict[str, Any]]:
    """The records of a block, their lists as arrays: Arrow makes lists of lists a value at a time, and is slow."""
    for table in read_tables(path) if path else ():
        columns = {name: table[name].to_pylist() for name in ("asked", "truncated", "reason", "remedy")}
        for name in ("input_ids", "response_mask"):
            columns[name] = split_rows(flat_values(table[name]), row_lengths(table[name]))
        for name in ("offsets", "lost"):
            columns[name] = split_rows(_triples(table[name]), row_lengths(table[name]))
        for values in zip(*columns.values(), strict=True):
            yield dict(zip(columns, values, strict=True))


def _triples(column: pa.ChunkedArray) -> Any:
    """All triples of a column of lists of them: int32 ``[N, 3]``."""
    return flat_values(pc.list_flatten(column)).reshape(-1, 3)
