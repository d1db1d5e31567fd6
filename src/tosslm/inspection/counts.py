"""What is counted of rows of tokens, one row after another, in memory that does not grow with them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from tosslm.inspection.edges import Edges
from tosslm.inspection.layouts import TokenRow, sequence_starts, starts_are_sound, trained_tokens
from tosslm.inspection.vocabulary import Vocabulary
from tosslm.misplaced import IGNORED, label_defects

DEFAULT_LENGTHS = (1024, 2048, 4096, 8192)


@dataclass
class Seen:
    """How often something was seen.

    Attributes:
        rows: rows it stands in.
        tokens: tokens it is true of.
        first: number of the first such row.
    """

    rows: int = 0
    tokens: int = 0
    first: int | None = None

    def add(self, number: int, tokens: int) -> None:
        """Count one row, unless it has no such token."""
        if tokens > 0:
            self.add_row(number, tokens)

    def add_row(self, number: int, tokens: int = 0) -> None:
        """Count one row, whatever its tokens."""
        self.rows += 1
        self.tokens += tokens
        self.first = number if self.first is None else self.first


@dataclass
class Cut:
    """What is lost where rows end after so many tokens.

    Attributes:
        rows: rows that are longer.
        lost: trained tokens behind the cut.
        nothing: rows that train on nothing afterwards, those among them that did so before.
    """

    rows: int = 0
    lost: int = 0
    nothing: int = 0


@dataclass
class End:
    """How a token that ends turns is treated.

    Attributes:
        stands: where it stands, of all tokens.
        trained: how many of those train.
        behind: how many follow a trained token and do not train.
        first: number of the first row with such a one, else of the first row it stands in.
    """

    stands: int = 0
    trained: int = 0
    behind: int = 0
    first: int | None = None


@dataclass
class Counts:
    """Counts over rows.

    Args:
        lengths: in tokens, at which rows might be cut.
        vocabulary: of the tokenizer, where there is one.

    Attributes:
        untrained: rows that train on nothing, those without tokens among them.
        seen: what ``defects`` finds, by its names; and ``empty``, rows without tokens.
        special: special tokens inside trained text, by id.
        beyond: ids that the vocabulary does not have.
        edges: where trained runs begin and end.
    """

    lengths: Sequence[int] = DEFAULT_LENGTHS
    vocabulary: Vocabulary | None = None
    rows: int = 0
    tokens: int = 0
    trained: int = 0
    untrained: int = 0
    longest: int = 0
    longest_row: int | None = None
    sequences: int = 0
    seen: dict[str, Seen] = field(default_factory=dict)
    special: dict[int, Seen] = field(default_factory=dict)
    beyond: Seen = field(default_factory=Seen)
    edges: Edges = field(default_factory=Edges)

    def __post_init__(self) -> None:
        """One count a length, and one a token that ends turns."""
        self.cuts = {length: Cut() for length in self.lengths}
        self.ends = {token: End() for token in (self.vocabulary.ends if self.vocabulary else ())}

    def add(self, row: TokenRow) -> np.ndarray:
        """Count one row; its trained tokens, bool ``[T]``, come back."""
        trained, starts = trained_tokens(row), sequence_starts(row)
        count = int(trained.sum())
        self.rows += 1
        self.tokens += len(row.ids)
        self.trained += count
        self.sequences += len(starts)
        if self.longest_row is None or len(row.ids) > self.longest:
            self.longest, self.longest_row = len(row.ids), row.number
        for length, cut in self.cuts.items():
            kept = int(trained[:length].sum())
            cut.rows += len(row.ids) > length
            cut.lost += count - kept
            cut.nothing += kept == 0
        wrong = defects(row, trained)
        for name, tokens in wrong.items():
            self.seen.setdefault(name, Seen()).add(row.number, tokens)
        if not len(row.ids):
            self.seen.setdefault("empty", Seen()).add_row(row.number)
        self.untrained += not count
        meant = _meant(trained, wrong)
        self.edges.add(row.ids, meant, starts, row.number)
        if self.vocabulary is not None:
            self._add_known(row, meant, self.vocabulary)
        return trained

    def is_first(self, number: int) -> bool:
        """Whether a row is the first of something that was seen."""
        seen = [*self.seen.values(), *self.special.values(), self.beyond]
        return any(one.first == number for one in seen)

    def _add_known(self, row: TokenRow, trained: np.ndarray, vocabulary: Vocabulary) -> None:
        ids, behind = row.ids, np.zeros_like(trained)
        behind[1:] = trained[:-1] & ~trained[1:]
        unknown = int((ids >= vocabulary.size).sum())
        if row.labels is not None and len(row.labels) == len(ids):  # a token that is its own label is one id, not two
            unknown += int(((row.labels >= vocabulary.size) & (row.labels != ids)).sum())
        elif row.labels is not None:
            unknown += int((row.labels >= vocabulary.size).sum())
        self.beyond.add(row.number, unknown)
        for token, end in self.ends.items():
            here = ids == token
            left = int((here & behind).sum())
            if (left and not end.behind) or (end.first is None and here.any()):
                end.first = row.number
            end.stands += int(here.sum())
            end.trained += int((here & trained).sum())
            end.behind += left
        inside = ids[trained & np.isin(ids, vocabulary.special)]
        for token, times in zip(*np.unique(inside, return_counts=True), strict=True):
            self.special.setdefault(int(token), Seen()).add(row.number, int(times))


def defects(row: TokenRow, trained: np.ndarray) -> dict[str, int]:
    """How many tokens of a row each defect concerns that can be told without a tokenizer.

    Args:
        row: as it was written.
        trained: bool ``[T]``, of ``trained_tokens``.

    Returns:
        ``lengths`` (by how many the columns' lengths differ), ``nothing`` and ``everything`` (tokens of a
        row that trains on none, on all), ``negative`` (ids below 0), ``hidden`` (trained padding), ``weights`` (mask
        values other than 0 and 1), ``starts`` and ``crossing`` (of packed rows), and those of ``label_defects``.
    """
    length = len(row.ids)
    others = [column for column in (row.labels, row.mask, row.attention) if column is not None]
    found = {
        "lengths": max((abs(len(column) - length) for column in others), default=0),
        "nothing": 0 if trained.any() else length,
        "everything": length if _all_train(row, trained) else 0,
        "negative": int((row.ids < 0).sum()),
        "hidden": _hidden(row, trained),
        "weights": 0 if row.mask is None else int((~np.isin(row.mask, (0.0, 1.0))).sum()),
        "starts": int(not starts_are_sound(row)),
        "crossing": _crossing(row),
    }
    return found | (label_defects(row.ids, row.labels) if row.labels is not None else {})


def _meant(trained: np.ndarray, wrong: Mapping[str, int]) -> np.ndarray:
    """Trained tokens, of shifted labels where their tokens stand, so that one mistake is not told as three."""
    if wrong.get("early"):
        return np.concatenate([[False], trained[:-1]])
    return np.concatenate([trained[1:], [False]]) if wrong.get("late") else trained


def _all_train(row: TokenRow, trained: np.ndarray) -> bool:
    """Whether a row's mask leaves nothing out; of packed ones, whether every token trains that can."""
    if len(row.ids) < 2 or not trained.any():
        return False
    if row.packed:
        return int(trained.sum()) == len(row.ids) - len(sequence_starts(row))
    given = row.labels != IGNORED if row.labels is not None else row.mask
    return given is not None and bool(given.all())


def _hidden(row: TokenRow, trained: np.ndarray) -> int:
    if row.attention is None:
        return 0
    shared = min(len(trained), len(row.attention))
    return int((trained[:shared] & (row.attention[:shared] == 0)).sum())


def _crossing(row: TokenRow) -> int:
    """Sequences of a packed row whose last mask value is 1, which could only mean the first token of the next one."""
    if row.starts is None or row.mask is None or not starts_are_sound(row):
        return 0
    lasts = np.append(row.starts[1:], len(row.ids)) - 1
    return int((row.mask[lasts[(lasts >= 0) & (lasts < len(row.mask))]] != 0).sum())
