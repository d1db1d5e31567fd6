"""What is in an export: rows, tokens, and what a consumer that cuts rows at a length would lose."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from tosslm.export.rows import MaskedRow

LENGTHS = (1024, 2048, 4096, 8192)


@dataclass(slots=True)
class Counts:
    """Of all rows of an export.

    Attributes:
        rows: how many.
        tokens: of all of them.
        response_tokens: those that trained and dropped tokens add up to.
        trained_tokens: those with a label.
        kept_untrained: kept by selection, yet anchored or of weight 0.
        weighed: trained, with another weight than 1.
        longest_row: in tokens.
        train_on_nothing: rows without a label.
        cut: by length, rows that are longer.
        cut_to_nothing: by length, rows without a label among so many first tokens, cut or not.
    """

    rows: int = 0
    tokens: int = 0
    response_tokens: int = 0
    trained_tokens: int = 0
    kept_untrained: int = 0
    weighed: int = 0
    longest_row: int = 0
    train_on_nothing: int = 0
    cut: dict[int, int] = field(default_factory=lambda: dict.fromkeys(LENGTHS, 0))
    cut_to_nothing: dict[int, int] = field(default_factory=lambda: dict.fromkeys(LENGTHS, 0))

    @property
    def dropped_tokens(self) -> int:
        """Response tokens without a label."""
        return self.response_tokens - self.trained_tokens


def count_rows(rows: Iterable[MaskedRow]) -> Counts:
    """Count a stream of rows."""
    counts = Counts()
    for row in rows:
        length, trained = len(row.input_ids), int(row.trained.sum())
        counts.rows += 1
        counts.tokens += length
        counts.response_tokens += len(row.keep)
        counts.trained_tokens += trained
        counts.kept_untrained += int((row.keep & ~row.trained[row.response_mask]).sum())
        counts.weighed += int((row.weights[row.trained] != 1).sum())
        counts.longest_row = max(counts.longest_row, length)
        counts.train_on_nothing += trained == 0
        first = int(np.argmax(row.trained)) if trained else length
        for limit in LENGTHS:
            counts.cut[limit] += length > limit
            counts.cut_to_nothing[limit] += trained == 0 or first >= limit
    return counts
