"""Files of decisions: read, checked against the rows that they name, and said line by line where they do not fit."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tosslm.errors import InputError
from tosslm.outward import whole_text
from tosslm.runs.layout import Layout
from tosslm.runs.tables import stored_rows
from tosslm.selection.decided import DROPPED, KEPT, OPEN, Decision, covered_tokens, decide

_KEYS = {"row_id", "decision", "message", "start", "end", "by", "at", "note"}
_SPAN = ("message", "start", "end")
DECIDED_COLUMNS = ("row_id", "messages", "offsets")
UNNAMED = "unnamed"
"""Whose decisions those are that name nobody."""


@dataclass(frozen=True, slots=True)
class ByHand:
    """What people decided of a run's tokens; empty where nobody did.

    Attributes:
        rows: int8 arrays of ``selection.decided``, one value a response token, by row id; other rows are open.
        kept: tokens kept by hand.
        dropped: tokens dropped by hand.
        by: tokens by who decided.
        lines: decisions in the file.
        sha256: of the file.
    """

    rows: Mapping[str, np.ndarray] = field(default_factory=dict)
    kept: int = 0
    dropped: int = 0
    by: Mapping[str, int] = field(default_factory=dict)
    lines: int = 0
    sha256: str = ""

    def of(self, row_ids: Sequence[str], lengths: np.ndarray) -> np.ndarray:
        """Of rows one after the other, int8 ``[n]``.

        Args:
            row_ids: the rows.
            lengths: int ``[R]``, response tokens of each.
        """
        decided = np.zeros(int(lengths.sum()), dtype=np.int8)
        if not self.rows:
            return decided
        start = 0
        for row_id, length in zip(row_ids, lengths.tolist(), strict=True):
            if (row := self.rows.get(row_id)) is not None:
                decided[start : start + length] = row
            start += length
        return decided

    def facts(self) -> dict[str, Any]:
        """For ``selection.json`` and the manifest."""
        counts = {"tokens_kept": self.kept, "tokens_dropped": self.dropped, "by": dict(self.by)}
        return {"lines": self.lines, "rows": len(self.rows), **counts, "sha256": self.sha256}


def parse_decisions(text: str, name: str) -> list[Decision]:
    """Decisions of a file's text, one JSON object a line; empty lines are passed over.

    Raises:
        InputError: a line is none; names ``name`` and the line.
    """
    return [decision for _, decision in numbered(text, name)]


def read_text(path: Path) -> str:
    """A file of decisions as text.

    Raises:
        InputError: it cannot be read, or is no UTF-8.
    """
    if not path.is_file():
        raise InputError(f"selection.overrides: {path}: no such file; `toss review RUN` makes one")
    try:
        return path.read_bytes().decode("utf-8")
    except UnicodeDecodeError:
        raise InputError(f"selection.overrides: {path}: no UTF-8; write JSON Lines in UTF-8") from None


def read_decisions(path: Path) -> list[Decision]:
    """The decisions of a file.

    Raises:
        InputError: it cannot be read, or a line is no decision; names file and line.
    """
    return parse_decisions(read_text(path), str(path))


def read_by_hand(path: Path, layout: Layout) -> ByHand:
    """What a file of decisions says of the custom set's tokens.

    Args:
        path: the file; None where there is none.
        layout: of the run, whose data are done.

    Raises:
        InputError: the file cannot be read, or as ``by_hand``.
    """
    return by_hand(read_text(path), str(path), layout)


def by_hand(text: str, name: str, layout: Layout) -> ByHand:
    """What decisions say of the custom set's tokens.

    Args:
        text: of their file.
        name: of the file, for messages.
        layout: of the run, whose data are done.

    Raises:
        InputError: a line is no decision, or names a row that is not there, a span outside the text, or one without a
            token that could be trained; names file and line.
    """
    lines = list(numbered(text, name))
    rows, by = check_decisions(lines, stored_rows(layout.rows("custom"), DECIDED_COLUMNS), name)
    whole = np.concatenate([*rows.values(), np.zeros(0, dtype=np.int8)])
    kept, dropped = (int((whole == what).sum()) for what in (KEPT, DROPPED))
    return ByHand(rows, kept, dropped, dict(sorted(by.items())), len(lines), print_of(text))


def print_of(text: str) -> str:
    """SHA-256 of a file of decisions, of its text."""
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def check_decisions(
    lines: Sequence[tuple[int, Decision]], stored: Iterable[Mapping[str, Any]], name: str
) -> tuple[dict[str, np.ndarray], Counter[str]]:
    """What decisions say of each row that they name, and how many tokens each person decided.

    Args:
        lines: decisions, each with its line.
        stored: rows of the custom set, with ``DECIDED_COLUMNS``.
        name: of the file, for messages.

    Raises:
        InputError: as ``read_by_hand``.
    """
    of_row: dict[str, list[tuple[int, Decision]]] = {}
    for number, decision in lines:
        of_row.setdefault(decision.row_id, []).append((number, decision))
    rows: dict[str, np.ndarray] = {}
    by: Counter[str] = Counter()
    for row in stored if of_row else ():
        if (own := of_row.pop(row["row_id"], None)) is None:
            continue
        offsets = np.array(row["offsets"], dtype=np.int64).reshape(-1, 3)
        for number, decision in own:
            _check_span(decision, json.loads(row["messages"]), offsets, f"{name}:{number}")
        decided, last = decide(offsets, [decision for _, decision in own])
        rows[row["row_id"]] = decided
        for index, tokens in zip(*np.unique(last[decided != OPEN], return_counts=True), strict=True):
            by[own[index][1].by or UNNAMED] += int(tokens)
    if of_row:
        first = min(own[0][0] for own in of_row.values())
        lost = sum(len(own) for own in of_row.values())
        row_id = next(own[0][1].row_id for own in of_row.values() if own[0][0] == first)
        others = f" ({lost:,} lines name rows that are not there)" if lost > 1 else ""
        raise InputError(
            f"{name}:{first}: no row {row_id} in the custom set{others}; ids change with the content of a row: "
            "decide anew, or leave the line out"
        )
    return rows, by


def _check_span(decision: Decision, messages: Sequence[Mapping[str, str]], offsets: np.ndarray, where: str) -> None:
    if decision.span is None:
        return
    message, start, end = decision.span
    if message >= len(messages) or end > len(messages[message]["content"]):
        there = (
            f"message {message} has {len(messages[message]['content']):,} code points"
            if message < len(messages)
            else f"the row has {len(messages)} messages, counted from 0"
        )
        raise InputError(f"{where}: span {start} to {end} of message {message} lies outside the text: {there}")
    if not covered_tokens(offsets, decision.span).any():
        raise InputError(
            f"{where}: span {start} to {end} of message {message} has no token that could be trained (a prompt, say, "
            "or text behind data.max_length); leave the line out, or choose text of an answer"
        )


def numbered(text: str, name: str) -> Iterator[tuple[int, Decision]]:
    """As ``parse_decisions``, each with its line."""
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            yield number, _decision(line, f"{name}:{number}")


def _decision(line: str, where: str) -> Decision:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        record = None
    if not isinstance(record, dict):
        raise InputError(f"{where}: no JSON object; write one decision a line")
    if unknown := sorted(set(record) - _KEYS):
        known = ", ".join(sorted(_KEYS))
        raise InputError(f"{where}: unknown key {unknown[0][:40]!r}; a decision has {known}")
    if not isinstance(record.get("row_id"), str):
        raise InputError(f"{where}: row_id is no text; write the id of a row, as `toss show RUN` lists them")
    if record.get("decision") not in ("keep", "drop"):
        raise InputError(f"{where}: decision is neither keep nor drop; write one of them")
    for key in ("by", "at", "note"):
        if not isinstance(record.get(key, ""), str | None):
            raise InputError(f"{where}: {key} is no text; write text, or leave it out")
    said = {key: whole_text(record[key]) if record.get(key) else None for key in ("by", "at", "note")}
    return Decision(record["row_id"], record["decision"] == "keep", _span(record, where), **said)


def _span(record: Mapping[str, Any], where: str) -> tuple[int, int, int] | None:
    given = [record.get(key) for key in _SPAN]
    if given == [None] * 3:
        return None
    match [value for value in given if isinstance(value, int) and not isinstance(value, bool)]:
        case [message, start, end] if min(message, start) >= 0 and start < end:
            return message, start, end
    raise InputError(
        f"{where}: message, start and end are no span; write three whole numbers from 0 on, start before end, or "
        "none of them for the whole row"
    )


def written(decisions: Sequence[Decision]) -> str:
    """Decisions as JSON Lines."""
    return "".join(json.dumps(record_of(decision), ensure_ascii=False) + "\n" for decision in decisions)


def record_of(decision: Decision) -> dict[str, Any]:
    """A decision as an object of JSON."""
    span = {} if decision.span is None else dict(zip(_SPAN, decision.span, strict=True))
    said = {key: value for key in ("by", "at", "note") if (value := getattr(decision, key)) is not None}
    return {"row_id": decision.row_id, "decision": "keep" if decision.keep else "drop", **span, **said}
