"""A set of tokens that somebody has prepared, read row by row to its end: counts, findings, rows to look at."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from tosslm.data.places import Place, check_split, locate
from tosslm.data.records import records
from tosslm.errors import InputError, RowError
from tosslm.inspection.chat import ChatRows, answer_weights
from tosslm.inspection.counts import DEFAULT_LENGTHS, Counts
from tosslm.inspection.findings import Finding, found, found_in_chat
from tosslm.inspection.layouts import CHAT, Layout, TokenRow, Unread, check_layout, layout_of, token_row
from tosslm.inspection.vocabulary import load_tokenizer, vocabulary_of

MAX_ROW_BYTES = 20_000_000
"""Bytes of a row: a million tokens as JSON, with labels and a mask beside them."""
_OF_CONFIGS = ", or raise data.max_row_bytes"
SHOWN_TOKENS = 2000
"""Tokens of a row that are shown."""
PAGE_ROWS = 50
"""Rows of a page, unless another number is asked for."""
_OF_TOKENS = {"--rows": "show", "--max-length": "cut"}


@dataclass(frozen=True, slots=True)
class ShownRow:
    """A row to look at.

    Attributes:
        number: line or row of the file.
        ids: int64, its first ``SHOWN_TOKENS`` tokens.
        trained: bool, one a shown token.
        length: tokens of the whole row.
        trained_tokens: of the whole row.
    """

    number: int
    ids: np.ndarray
    trained: np.ndarray
    length: int
    trained_tokens: int


@dataclass
class Inspection:
    """What is known of a set.

    Attributes:
        name: the path as the user wrote it.
        layout: how it says which tokens train.
        unread: columns that say so too, and were not counted by.
        counts: of tokens; without rows where a chat file is read without a tokenizer.
        answers: of a chat file: ``rows``, ``answers``, ``trained`` and ``nothing`` (rows that train none).
        findings: what a reader should know.
        shown: rows to look at.
        tokenizer: whose text the rows are, or None.
    """

    name: str
    layout: Layout
    counts: Counts
    unread: list[str] = field(default_factory=list)
    answers: dict[str, int] | None = None
    findings: list[Finding] = field(default_factory=list)
    shown: list[ShownRow] = field(default_factory=list)
    tokenizer: Any = None

    def summary(self) -> dict[str, Any]:
        """The same for machines, without the rows to look at."""
        counts, tokens_known = self.counts, self.layout is not CHAT or self.tokenizer is not None
        facts: dict[str, Any] = {"path": self.name, "layout": self.layout.name, "not_read": self.unread}
        if self.answers is not None:
            facts["answers"] = self.answers
        if tokens_known:
            facts |= {
                "rows": counts.rows,
                "sequences": counts.sequences,
                "tokens": counts.tokens,
                "trained_tokens": counts.trained,
                "trained_share": counts.trained / counts.tokens if counts.tokens else 0.0,
                "rows_training_nothing": counts.untrained,
                "longest": counts.longest,
                "longest_row": counts.longest_row,
                "cuts": [{"max_length": length, **asdict(cut)} for length, cut in counts.cuts.items()],
            }
        else:
            assert self.answers is not None
            facts |= {"rows": self.answers["rows"], "rows_training_nothing": self.answers["nothing"]}
        return facts | {"findings": [asdict(finding) for finding in self.findings]}


def inspect(
    path: str,
    *,
    tokenizer: str | None = None,
    max_length: int | None = None,
    rows: int | None = None,
    split: str | None = None,
    with_found: bool = False,
    check: Callable[[], None] = lambda: None,
) -> Inspection:
    """Read a set to its end and say what a trainer would learn from it.

    Args:
        path: JSON Lines, JSON, Parquet, a folder of ``datasets.save_to_disk``, or a hub id.
        tokenizer: a folder, a hub id, or a built-in model; None reads ids alone.
        max_length: in tokens, at which rows are cut; None tries several.
        rows: how many to keep to look at; None is ``PAGE_ROWS`` with ``with_found``, else 3 with a tokenizer, else 0.
        split: of a saved DatasetDict or a hub data set.
        with_found: keep the first row of each finding about rows to look at too, as a page has them.
        check: called before each row; may raise to stop.

    Raises:
        InputError: the set or the tokenizer cannot be read, or a row cannot; names file and row. Or tokens are asked
            for of a chat file, which has none without a tokenizer.
    """
    loaded = load_tokenizer(tokenizer) if tokenizer else None
    place = locate(path)
    check_split([place], split, "--split")
    record_stream = _checked(place, split, check)
    first = next(record_stream, None)
    if first is None:
        raise InputError(f"{path}: no rows; name the file that has them")
    with _named(path, first[0]):
        layout = layout_of(first[1])
    if layout is CHAT and loaded is None:
        _check_no_tokens(path, {"--rows": rows, "--max-length": max_length})
    lengths = DEFAULT_LENGTHS if max_length is None else (max_length,)
    known = vocabulary_of(loaded) if loaded is not None else None
    inspection = Inspection(path, layout, Counts(lengths, known), tokenizer=loaded)
    default = PAGE_ROWS if with_found else 3 if loaded is not None else 0
    wanted = _Wanted(default if rows is None else rows, with_found)
    unread = Unread(layout)
    stream = _looked_at(itertools.chain([first], record_stream), unread)
    if layout is CHAT:
        _count_chat(inspection, stream, wanted)
    else:
        _count_tokens(inspection, stream, wanted)
    inspection.unread = unread.names
    return inspection


def _looked_at(
    stream: Iterator[tuple[int, Mapping[str, Any]]], unread: Unread
) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """The same rows, each of whose columns were seen by then."""
    for number, record in stream:
        unread.add(record)
        yield number, record


def _check_no_tokens(path: str, options: Mapping[str, int | None]) -> None:
    """Refuse options that are about tokens, of a set that has none."""
    if asked := [option for option, value in options.items() if value]:
        raise InputError(
            f"{asked[0]}: {path} is a chat file, which has no tokens to {_OF_TOKENS[asked[0]]} without a tokenizer; "
            "name one with --tokenizer"
        )


@dataclass(frozen=True, slots=True)
class _Wanted:
    """Which rows are kept to look at: so many first ones, and the first of each finding."""

    first: int
    found: bool


def _count_tokens(inspection: Inspection, stream: Iterator[tuple[int, Mapping[str, Any]]], wanted: _Wanted) -> None:
    for number, record in stream:
        with _named(inspection.name, number):
            row = token_row(record, inspection.layout, number)
            check_layout(record, inspection.layout)
        _count(inspection, row, wanted)
    inspection.findings = found(inspection.counts, inspection.layout)


def _count_chat(inspection: Inspection, stream: Iterator[tuple[int, Mapping[str, Any]]], wanted: _Wanted) -> None:
    chat = ChatRows(inspection.tokenizer) if inspection.tokenizer is not None else None
    answers = dict.fromkeys(("rows", "answers", "trained", "nothing"), 0)
    first_nothing = None
    for number, record in stream:
        with _named(inspection.name, number):
            weights = answer_weights(record)
            check_layout(record, CHAT)
            row = chat.row(record, number) if chat else None
        answers["rows"] += 1
        answers["answers"] += len(weights)
        answers["trained"] += sum(weights)
        if not any(weights):
            answers["nothing"] += 1
            first_nothing = number if first_nothing is None else first_nothing
        if row is not None:
            _count(inspection, row, wanted)
    inspection.answers = answers
    inspection.findings = (
        found(inspection.counts, CHAT) if chat else found_in_chat(answers["nothing"], answers["rows"], first_nothing)
    )


def _count(inspection: Inspection, row: TokenRow, wanted: _Wanted) -> None:
    trained = inspection.counts.add(row)
    if inspection.counts.rows <= wanted.first or (wanted.found and inspection.counts.is_first(row.number)):
        ids = row.ids[:SHOWN_TOKENS].copy()
        shown = trained[:SHOWN_TOKENS].copy()
        inspection.shown.append(ShownRow(row.number, ids, shown, len(row.ids), int(trained.sum())))


def _checked(place: Place, split: str | None, check: Callable[[], None]) -> Iterator[tuple[int, Mapping[str, Any]]]:
    for number, record in records(place, split=split, max_row_bytes=MAX_ROW_BYTES):
        check()
        with _named(place.name, number):
            if isinstance(record, RowError):
                raise record
            if not isinstance(record, Mapping):
                raise RowError("the row is no object", "write one JSON object a row")
        yield number, record


@contextmanager
def _named(name: str, number: int) -> Iterator[None]:
    """Errors of a row name its file and number."""
    try:
        yield
    except RowError as error:
        remedy = error.remedy.replace(_OF_CONFIGS, "")
        raise InputError(f"{name}:{number}: {error.reason}; {remedy}") from error
