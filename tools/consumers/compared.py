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
        weights: what each token counts.
    """

    ids: tuple[int, ...]
    labels: tuple[int, ...]
    weights: tuple[float, ...]


@dataclass(slots=True)
class Found:
    """What a comparison found.

    Attributes:
        rows: of the run.
        missing: of these, how many with a label the consumer has not.
        left_out: how many without a label it has not: nothing is lost with them.
        strange: rows of the consumer that the run has not.
        trained: tokens that the run trains.
        lost: of these, how many the consumer does not train, in rows that it has.
        let_in: tokens that the consumer trains and the run does not.
        ends: of the same, ends of turn, which are not counted among ``let_in``.
        wrong: trained tokens whose label is another token, or whose weight is another.
    """

    rows: int = 0
    missing: int = 0
    left_out: int = 0
    strange: int = 0
    trained: int = 0
    lost: int = 0
    let_in: int = 0
    ends: int = 0
    wrong: int = 0

    @property
    def same(self) -> bool:
        """Whether the consumer trains what the run does, to the last token."""
        return not (self.missing or self.strange or self.lost or self.let_in or self.ends or self.wrong)

    def told(self) -> str:
        """In a sentence."""
        left = f"; {self.left_out} rows without a label are left out" if self.left_out else ""
        if self.same:
            return f"all {self.trained:,} labels of {self.rows:,} rows as in the run{left}"
        counts = {
            f"of {self.trained:,} trained tokens {self.lost:,} not trained": self.lost,
            f"{self.ends:,} tokens of ends of turn trained that the run does not train": self.ends,
            f"{self.let_in:,} other tokens trained that the run does not train": self.let_in,
            f"{self.wrong:,} wrong labels or weights": self.wrong,
            f"{self.missing:,} of {self.rows:,} rows not there with the same tokens": self.missing,
            f"{self.strange:,} rows of other tokens": self.strange,
        }
        return ", ".join(text for text, count in counts.items() if count) + left


def compared(expected: Iterable[Row], found: Iterable[Row], ends: frozenset[int] = frozenset()) -> Found:
    """Compare rows, which are found by their tokens: consumers shuffle and pack them.

    Args:
        expected: of the run.
        found: of the consumer.
        ends: tokens that end a turn, where the consumer sees to these by itself.
    """
    by_ids: dict[tuple[int, ...], list[Row]] = defaultdict(list)
    for row in found:
        by_ids[row.ids].append(row)
    total = Found()
    for row in expected:
        own = sum(label != IGNORED for label in row.labels)
        total.rows += 1
        total.trained += own
        if same_tokens := by_ids[row.ids]:
            _count(row, same_tokens.pop(_nearest(row, same_tokens)), ends, total)
        else:
            total.missing += own > 0
            total.left_out += own == 0
    total.strange = sum(map(len, by_ids.values()))
    return total


def _nearest(row: Row, others: list[Row]) -> int:
    differing = [sum(a != b for a, b in zip(row.labels, other.labels, strict=True)) for other in others]
    return differing.index(min(differing))


def _count(row: Row, other: Row, ends: frozenset[int], total: Found) -> None:
    for token, label, theirs, weight, their_weight in zip(
        row.ids, row.labels, other.labels, row.weights, other.weights, strict=True
    ):
        if theirs == IGNORED:
            total.lost += label != IGNORED
        elif theirs != token:
            total.wrong += 1
        elif label != IGNORED:
            total.wrong += abs(weight - their_weight) > 1e-6
        elif token in ends:
            total.ends += 1
        else:
            total.let_in += 1
