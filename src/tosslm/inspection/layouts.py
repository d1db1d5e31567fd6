"""How sets say which tokens train: told from their columns, and read into one kind of row."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tosslm.errors import RowError
from tosslm.misplaced import IGNORED


@dataclass(frozen=True, slots=True)
class Layout:
    """One way of saying which tokens train.

    Attributes:
        name: for people and machines.
        needs: columns that tell it; the last one says what trains.
        meaning: how that column is read.
    """

    name: str
    needs: tuple[str, ...]
    meaning: str


PACKED = Layout(
    "packed",
    ("input_ids", "seq_start_id", "loss_mask"),
    "packed rows: where loss_mask is 1, the token after it trains, within its sequence",
)
_ALIGNED = "a token trains where {} is not 0"
ALONE = Layout("attention_mask", ("input_ids", "attention_mask"), "every token trains but padding")
BARE = Layout("input_ids", ("input_ids",), "every token trains")
CHAT = Layout("chat", ("messages",), "an answer trains unless its weight is 0")
LAYOUTS = (
    PACKED,
    Layout("labels", ("input_ids", "labels"), "a token trains where its label is not -100"),
    Layout("loss_mask", ("input_ids", "loss_mask"), _ALIGNED.format("loss_mask")),
    Layout(
        "completion_mask",
        ("input_ids", "completion_mask"),
        f"{_ALIGNED.format('completion_mask')}; TRL heeds it with completion_only_loss=True alone, else all train",
    ),
    Layout("assistant_masks", ("input_ids", "assistant_masks"), _ALIGNED.format("assistant_masks")),
    Layout("response_mask", ("input_ids", "response_mask"), _ALIGNED.format("response_mask")),
    ALONE,
    BARE,
    CHAT,
)
"""In the order in which they are tried: the first whose columns are there is the one."""
_SAY_TRAINED = {layout.needs[-1] for layout in LAYOUTS} - {"input_ids", "attention_mask", "messages"}
_SAY_NOTHING = {"input_ids", "attention_mask", "position_ids", "token_type_ids", "special_tokens_mask"}
"""What has a number a token and leaves open whether it trains."""
_KEPT_COLUMNS = 1000  # a bound on memory: a set may give every row columns of other names


@dataclass(frozen=True, slots=True)
class TokenRow:
    """One row as it was written, each column as long as the data have it.

    Attributes:
        number: line or row of the file, from 1.
        ids: int64 ``[T]``.
        labels: int64, or None.
        mask: float64, whatever says which tokens train beside labels, or None where all do.
        starts: int64, where the sequences of a packed row begin, or None; the mask is aligned to labels then.
        attention: int64, or None.
    """

    number: int
    ids: np.ndarray
    labels: np.ndarray | None = None
    mask: np.ndarray | None = None
    starts: np.ndarray | None = None
    attention: np.ndarray | None = None

    @property
    def packed(self) -> bool:
        """Whether the mask is aligned to labels."""
        return self.starts is not None


def layout_of(record: Mapping[str, Any]) -> Layout:
    """Tell a layout from a record's columns; one that is null counts as absent.

    Raises:
        RowError: there is none.
    """
    present = {name for name, value in record.items() if value is not None}
    for layout in LAYOUTS:
        if present.issuperset(layout.needs):
            return layout
    shown = ", ".join(repr(str(name)[:40]) for name in list(record)[:12])
    raise RowError(
        f"neither input_ids nor messages; columns found: {shown or 'none'}",
        "inspect tokenised rows, or chat rows (messages); `toss plan` checks other rows before they are tokenised",
    )


def check_layout(record: Mapping[str, Any], layout: Layout) -> None:
    """Refuse a row that is to be read in another way than the set.

    Raises:
        RowError: a column that the first row lacks says what trains.
    """
    own = layout_of(record)
    if own is not layout:
        raise RowError(
            f"{own.needs[-1]} says which tokens train, and of the first row {layout.needs[-1]} does",
            "give every row the same columns",
        )


@dataclass
class Unread:
    """Columns of a set that say which tokens train too, or may, and that none is counted by.

    Of columns with names that nobody here knows, those are meant that have a number, or a truth, a token in most of
    the rows that have them at all: a list of fixed length has one in some row by chance.

    Args:
        layout: of the set.
    """

    layout: Layout
    _known: set[str] = field(default_factory=set)
    _fits: dict[str, list[int]] = field(default_factory=dict)

    def add(self, record: Mapping[str, Any]) -> None:
        """Look at the columns of one row."""
        passed = _SAY_NOTHING.union(self.layout.needs)
        length = len(ids) if isinstance(ids := record.get("input_ids"), list) else 0
        for name, value in record.items():
            if name in passed or value is None:
                continue
            if name in _SAY_TRAINED:
                self._known.add(name)
            elif length and isinstance(value, list) and (name in self._fits or len(self._fits) < _KEPT_COLUMNS):
                fits = len(value) == length and all(isinstance(one, int | float) for one in value)
                self._fits.setdefault(name, [0, 0])[fits] += 1

    @property
    def names(self) -> list[str]:
        """Their names, in order."""
        return sorted(self._known.union(name for name, (other, fit) in self._fits.items() if fit > other))


def token_row(record: Mapping[str, Any], layout: Layout, number: int) -> TokenRow:
    """Read a record's columns.

    Raises:
        RowError: a column is missing, or no flat list of numbers.
    """
    for name in layout.needs:
        if record.get(name) is None:
            raise RowError(f"no {name} (or null), and the first row has it", "give every row the same columns")
    ids = _integers(record["input_ids"], "input_ids")
    told_by = layout.needs[-1]
    attention = record.get("attention_mask")
    return TokenRow(
        number,
        ids,
        labels=_integers(record["labels"], "labels") if told_by == "labels" else None,
        mask=None if told_by in ("labels", "input_ids") else _numbers(record[told_by], told_by),
        starts=_integers(record["seq_start_id"], "seq_start_id") if layout is PACKED else None,
        attention=None if attention is None else _integers(attention, "attention_mask"),
    )


def sequence_starts(row: TokenRow) -> np.ndarray:
    """Where the row's sequences begin, int64, the first at 0; bad ``seq_start_id`` make it one sequence."""
    if row.starts is None or not starts_are_sound(row):
        return np.zeros(1, dtype=np.int64)
    return row.starts


def starts_are_sound(row: TokenRow) -> bool:
    """Whether ``seq_start_id`` begins at 0, rises, and stays inside the row."""
    starts = row.starts
    if starts is None:
        return True
    return bool(len(starts) and starts[0] == 0 and (np.diff(starts) > 0).all() and starts[-1] < max(len(row.ids), 1))


def trained_tokens(row: TokenRow) -> np.ndarray:
    """Which tokens a trainer would learn to produce.

    The first token of a row, and of a packed sequence, is never one: nothing stands before it to predict it from.
    Where columns differ in length, what both have is counted.

    Returns:
        bool ``[T]``.
    """
    length = len(row.ids)
    if row.labels is not None:
        given = row.labels != IGNORED
    elif row.mask is not None:
        given = row.mask != 0
    else:
        given = np.ones(length, dtype=bool)
    if row.packed:
        given = np.concatenate([[False], given])
    trained = np.zeros(length, dtype=bool)
    shared = min(length, len(given))
    trained[:shared] = given[:shared]
    if length:
        trained[sequence_starts(row)] = False
    return trained


def _integers(value: object, name: str) -> np.ndarray:
    array = _array(value, name)
    if array.size and array.dtype.kind not in "iub":
        raise RowError(f"{name} is no list of whole numbers", "write token ids and labels as integers")
    return array.astype(np.int64)


def _numbers(value: object, name: str) -> np.ndarray:
    array = _array(value, name)
    if array.size and array.dtype.kind not in "iubf":
        raise RowError(f"{name} is no list of numbers", "write 0 and 1, or true and false")
    return array.astype(np.float64)


def _array(value: object, name: str) -> np.ndarray:
    if not isinstance(value, list | tuple | np.ndarray):
        raise RowError(f"{name} is no list", "write one list of numbers a row")
    try:
        array = np.asarray(value)
    except (ValueError, OverflowError):  # lists of unequal lengths inside
        array = np.empty((0, 0))
    if array.ndim != 1:
        raise RowError(f"{name} is a list of lists", "write one flat list a row, without a batch dimension")
    return array
