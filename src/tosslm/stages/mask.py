"""The keep mask, written part by part, and what is counted of it on the way."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tosslm.errors import TosslmError
from tosslm.files import parquet_writer, read_tables
from tosslm.ragged import row_starts, split_rows, sums_before
from tosslm.runs.decisions import ByHand
from tosslm.runs.layout import Layout
from tosslm.runs.recorded import SINCE_BEFORE, Mark
from tosslm.runs.tables import KEEP_SCHEMA, Parts, RowsInTurn, flat_values, list_column, row_lengths


def write_mask(layout: Layout, masked: Parts, mark: Mark, by_hand: ByHand) -> MaskCounts:
    """Write ``keep.parquet``.

    Args:
        layout: of the run.
        masked: values are the mask, bool.
        mark: of the step.
        by_hand: what people decided.
    """
    counts = MaskCounts(layout, by_hand)
    with parquet_writer(layout.keep, KEEP_SCHEMA, mark.fingerprint) as writer:
        for ids, lengths, keep in masked:
            columns = {"row_id": ids, "keep": list_column(keep, lengths)}
            writer.write_table(pa.table(columns, schema=writer.schema))
            counts.add(ids, lengths, keep)
    return counts


class MaskCounts:
    """Tokens and dropped ones by source, rows that people emptied, and changes since the mask before.

    Args:
        layout: of the run.
        by_hand: what people decided.
    """

    def __init__(self, layout: Layout, by_hand: ByHand) -> None:
        self._by_hand = by_hand
        self._of_rows = RowsInTurn(layout.rows("custom"), ["source"])
        self._sources: dict[str, dict[str, int]] = {}
        # A mask that cannot be read is being made again, so there is nothing to compare with.
        self._previous = RowsInTurn(layout.keep) if _is_readable(layout) else None
        self._changed: int | None = 0 if self._previous else None
        self.emptied = 0

    def add(self, ids: list[str], lengths: np.ndarray, keep: np.ndarray) -> None:
        """Count a part's rows; bool ``[N]`` is what is kept of them.

        Raises:
            TosslmError: the custom set has fewer rows.
        """
        if not ids:
            return
        dropped = np.diff(sums_before(~keep)[row_starts(lengths)])
        self._add_sources(lengths, dropped)
        if self._by_hand.rows:
            rows = zip(ids, split_rows(keep, lengths), strict=True)
            self.emptied += sum(row_id in self._by_hand.rows and not row.any() for row_id, row in rows)
        if self._changed is not None:
            self._add_changes(ids, lengths, keep)

    def _add_sources(self, lengths: np.ndarray, dropped: np.ndarray) -> None:
        table = self._of_rows.take(len(lengths))
        if table is None:
            raise TosslmError("data/custom.parquet has fewer rows than there are scores; `toss run` makes both again")
        coded = table["source"].combine_chunks().dictionary_encode()  # names in the order in which they come
        of_row = coded.indices.to_numpy()
        for number, name in enumerate(coded.dictionary.to_pylist()):
            own = of_row == number
            counts = self._sources.setdefault(name, {"rows": 0, "tokens": 0, "discarded": 0})
            counts["rows"] += int(own.sum())
            counts["tokens"] += int(lengths[own].sum())
            counts["discarded"] += int(dropped[own].sum())

    def _add_changes(self, ids: list[str], lengths: np.ndarray, keep: np.ndarray) -> None:
        before = self._previous.take(len(ids)) if self._previous else None
        if before is None or not _is_of(before, ids, lengths):  # it is of another custom set
            self._changed = None
        else:
            self._changed = (self._changed or 0) + int((flat_values(before["keep"]) != keep).sum())

    def facts(self) -> dict[str, Any]:
        """``tokens``, ``discarded`` and, by name, ``sources``."""
        return {
            "tokens": sum(counts["tokens"] for counts in self._sources.values()),
            "discarded": sum(counts["discarded"] for counts in self._sources.values()),
            "sources": self._sources,
        }

    def changes(self) -> dict[str, int]:
        """How many tokens' choice is another than before; nothing where there was no mask of these rows."""
        return {} if self._changed is None else {SINCE_BEFORE: self._changed}


def _is_of(table: pa.Table, ids: list[str], lengths: np.ndarray) -> bool:
    same_ids = pc.all(pc.equal(table["row_id"], pa.array(ids))).as_py()
    return bool(same_ids) and np.array_equal(row_lengths(table["keep"]), lengths)


def _is_readable(layout: Layout) -> bool:
    try:
        return layout.keep.exists() and sum(len(table) for table in read_tables(layout.keep)) > 0
    except TosslmError:
        return False
