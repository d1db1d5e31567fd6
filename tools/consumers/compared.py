"""What a consumer would learn from, against what the run trains on: row by row, token by token."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

IGNORED = -100


@dataclass(frozen=True, slots=True)
class Row:
    """A row as a trainer has it.

    Attributes:
        ids: its tokens.
        labels: beside them, not shifted; -100 where not trained.
        weights: what each token counts, where the consumer has such; else None.
    """

    ids: tuple[int, ...]
    labels: tuple[int, ...]
    weights: tuple[float, ...] | None = None


@dataclass(frozen=True, slots=True)
class Found:
    """What a comparison found.

    Attributes:
        rows: of the run.
        missing: of these, how many the consumer has not.
        without_label: of the missing, how many have no label: nothing is lost with them.
        strange: rows of the consumer that the run has not.
        trained: tokens that the run trains.
        lost: of these, how many the consumer does not train, in rows that it has.
        let_in: tokens that the consumer trains and the run does not.
        wrong: tokens whose label is another token, or whose weight is another.
    """

    rows: int
    missing: int
    without_label: int
    strange: int
    trained: int
    lost: int
    let_in: int
    wrong: int

    @property
    def same(self) -> bool:
        """Whether the consumer trains what the run does, to the last token."""
        return not (self.missing - self.without_label or self.strange or self.lost or self.let_in or self.wrong)

    def told(self) -> str:
        """In a sentence."""
        if self.same:
            left = f"; {self.without_label} rows without a label are left out" if self.without_label else ""
            return f"all {self.trained:,} labels of {self.rows:,} rows are the run's{left}"
        return (
            f"{self.lost:,} of {self.trained:,} trained tokens are lost, {self.let_in:,} others are trained, "
            f"{self.wrong:,} labels or weights are wrong, {self.missing:,} of {self.rows:,} rows are missing, "
            f"{self.strange:,} are not the run's"
        )


def compared(expected: Iterable[Row], found: Iterable[Row]) -> Found:
    """Compare rows, which are found by their tokens: consumers shuffle and pack them.

    Args:
        expected: of the run.
        found: of the consumer.
    """
    by_ids: dict[tuple[int, ...], list[Row]] = defaultdict(list)
    strange = 0
    for row in found:
        by_ids[row.ids].append(row)
    rows = missing = without_label = trained = lost = let_in = wrong = 0
    for row in expected:
        rows += 1
        own = sum(label != IGNORED for label in row.labels)
        trained += own
        if not by_ids[row.ids]:
            missing += 1
            without_label += not own
            continue
        other = min(by_ids[row.ids], key=lambda one, row=row: _distance(row, one))  # type: ignore[misc]
        by_ids[row.ids].remove(other)
        pairs = list(zip(row.labels, other.labels, strict=True))
        lost += sum(a != IGNORED and b == IGNORED for a, b in pairs)
        let_in += sum(a == IGNORED and b != IGNORED for a, b in pairs)
        wrong += sum(b not in (IGNORED, token) for token, b in zip(row.ids, other.labels, strict=True))
        if row.weights is not None and other.weights is not None:
            wrong += sum(abs(a - b) > 1e-6 for a, b in zip(row.weights, other.weights, strict=True))
    strange = sum(map(len, by_ids.values()))
    return Found(rows, missing, without_label, strange, trained, lost, let_in, wrong)


def _distance(row: Row, other: Row) -> int:
    return sum(a != b for a, b in zip(row.labels, other.labels, strict=True))
