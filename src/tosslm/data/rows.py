"""Rows: conversations read from files and checked, each with an id that depends on its content alone.

A good record becomes a `Row`, a bad one a `BadRow` that says where it stands and how to mend it; a file
that cannot be read as a whole is an `InputError`.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from tosslm.data.asked import Asked, renamed
from tosslm.data.copies import Copies
from tosslm.data.formats import Conversation, check_format, parse_conversation, parse_record
from tosslm.data.places import Place, check_split, locate
from tosslm.data.records import MAX_ROW_BYTES, records
from tosslm.data.turns import Messages, check_text
from tosslm.errors import InputError, RowError
from tosslm.files import sha256
from tosslm.remote import is_url, remote_sha256

if TYPE_CHECKING:
    from tosslm.config import SourceConfig

__all__ = [
    "BadRow",
    "Row",
    "base_id",
    "content_id",
    "file_checksums",
    "file_names",
    "held_out",
    "parse_record",
    "raw_files",
    "read_rows",
    "source_rows",
]


@dataclass(frozen=True, slots=True)
class Row:
    """One conversation.

    Attributes:
        row_id: `content_id` of the messages; later copies bear ``-2``, ``-3`` and so on.
        origin: ``file:line``, the line from 1; of Parquet, a saved folder or a hub id the row's number.
        source: the record's own field ``source``, else the file's stem.
        messages: as of a `Conversation`.
        unsafe_spans: triples ``[message index, start, end]`` in code points; None where the data do not
            mark them, ``[]`` where they mark that nothing is unsafe.
        context: indices of the assistant turns that the data keep from being trained and scored.
    """

    row_id: str
    origin: str
    source: str
    messages: Messages
    unsafe_spans: list[list[int]] | None
    context: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class BadRow:
    """A record that cannot be used.

    Attributes:
        origin: ``file:line``, as of a `Row`.
        reason: what is wrong with it.
        remedy: how to mend it.
    """

    origin: str
    reason: str
    remedy: str


def content_id(messages: Sequence[Mapping[str, object]]) -> str:
    """The first 16 hex digits of SHA-256 over the messages as compact JSON, ``role`` and ``content`` only."""
    bare = [{"role": message["role"], "content": message["content"]} for message in messages]
    text = json.dumps(bare, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode("utf-8")).hexdigest()[:16]


def base_id(row_id: str) -> str:
    """The id that all copies of a content share: `row_id` without its suffix."""
    return row_id.partition("-")[0]


def in_order(row_ids: Iterable[str]) -> list[str]:
    """The contents of rows, by the ids their copies share, in an order that has nothing to do with what they say."""
    return sorted({base_id(row_id) for row_id in row_ids}, key=lambda id_: hashlib.sha256(id_.encode()).digest())


def held_out(row_ids: Iterable[str], share: float) -> set[str]:
    """The rows of a reference set that are never trained on.

    The choice depends on content alone: the contents are ordered by a hash of their ids, and the first
    ``ceil(share * contents)`` are held out, with all of their copies. At least one content stays for training.

    Args:
        row_ids: ids of one set.
        share: in [0, 1).

    Returns:
        Ids without their copies' suffixes.
    """
    contents = in_order(row_ids)
    return set(contents[: min(math.ceil(share * len(contents)), len(contents) - 1)])


def read_rows(
    paths: str | Sequence[str],
    *,
    format: str = "auto",
    field: str | None = None,
    split: str | None = None,
    max_row_bytes: int = MAX_ROW_BYTES,
    fields: Mapping[str, str] | None = None,
    where: Mapping[str, object] | None = None,
    limit: int | None = None,
    key: str = "",
) -> Iterator[Row | BadRow]:
    """Read the rows of files, saved `datasets` folders, URLs of files and hub ids, in order.

    Rows come one by one; nothing but a count of contents is kept, on disk where they are many. Names are checked at
    once, before the first row is asked for.

    Args:
        paths: one or several of ``.jsonl``, ``.ndjson`` or ``.json`` files, plain or with ``.gz`` or
            ``.zst``, ``.parquet`` files, folders saved by ``save_to_disk``, and hub ids.
        format: the row format, see `parse_record`.
        field: the field of HH text.
        split: of a saved DatasetDict (there it must be given) or a hub id (default ``train``).
        max_row_bytes: a row of more is a bad one, and is not read to its end.
        fields: the format's fields by the names that records have for them, see `renamed`.
        where: fields, by their names in the records, and the values of them that a record is taken for.
        limit: stop after so many good rows.
        key: of the set in a config, such as ``data.custom``, for messages.

    Yields:
        A `Row` for each good record and a `BadRow` for each bad one.

    Raises:
        InputError: a file is missing, damaged, empty, or of an unknown kind; or ``split``, ``fields`` or ``where``
            ask for what is not there.
    """
    check_format(format, field)
    names, asked = _names(paths), Asked.beginning(fields or {}, where or {}, key)
    read = partial(_parsed, asked=asked, format=format, field=field)
    places = [locate(name) for name in names]
    check_split(places, split, f"{key}.split" if key else "split")
    rows = _rows(places, read, field, split, max_row_bytes)
    return _checked(rows if limit is None else _first(rows, limit), asked, ", ".join(names))


def source_rows(source: SourceConfig, max_row_bytes: int = MAX_ROW_BYTES, *, key: str = "") -> Iterator[Row | BadRow]:
    """The rows of one set, as ``read_rows`` gives them."""
    return read_rows(
        source.path,
        format=source.format,
        field=source.field,
        split=source.split,
        max_row_bytes=max_row_bytes,
        fields=source.fields,
        where=source.where,
        limit=source.limit,
        key=key,
    )


def _checked(rows: Iterator[Row | BadRow], asked: Asked, names: str) -> Iterator[Row | BadRow]:
    yield from rows
    asked.check(names)


def _first(rows: Iterator[Row | BadRow], limit: int) -> Iterator[Row | BadRow]:
    for row in rows:
        yield row
        limit -= isinstance(row, Row)
        if not limit:
            return


def _parsed(record: object, asked: Asked, *, format: str, field: str | None) -> tuple[Conversation, object] | None:
    """A record's conversation, and the record under the format's names; None where it is not asked for."""
    if not asked.takes(record):
        return None
    named = renamed(record, asked.fields) if isinstance(record, Mapping) else record
    return parse_conversation(named, format, field, named=asked.fields), named


def _rows(
    places: list[Place],
    read: Callable[[object], tuple[Conversation, object] | None],
    field: str | None,
    split: str | None,
    max_row_bytes: int,
) -> Iterator[Row | BadRow]:
    with closing(Copies()) as copies:
        for place in places:
            yield from _rows_of(place, read, field, split, max_row_bytes, copies)


def _rows_of(
    place: Place,
    read: Callable[[object], tuple[Conversation, object] | None],
    field: str | None,
    split: str | None,
    max_row_bytes: int,
    copies: Copies,
) -> Iterator[Row | BadRow]:
    empty = True
    for number, record in records(place, split=split, field=field, max_row_bytes=max_row_bytes):
        empty = False
        origin = f"{place.name}:{number}"
        try:
            if isinstance(record, RowError):
                raise record
            if (found := read(record)) is None:
                continue
            parsed, source = found[0], _source(found[1], place.stem)
        except RowError as error:
            yield BadRow(origin, error.reason, error.remedy)
            continue
        row_id = _row_id(parsed.messages, copies)
        yield Row(row_id, origin, source, parsed.messages, parsed.unsafe_spans, parsed.context)
    if empty:
        raise InputError(f"{place.name}: no rows in it; write some, or leave it out")


def _row_id(messages: Messages, copies: Copies) -> str:
    row_id = content_id(messages)
    times = copies.add(int(row_id, 16))
    return row_id if times == 1 else f"{row_id}-{times}"


def _source(record: object, stem: str) -> str:
    source = record.get("source") if isinstance(record, Mapping) else None
    if isinstance(source, int | float) and not isinstance(source, bool) and float(source).is_integer():
        source = str(int(source))  # with gaps, a column of whole numbers comes as 1.0, 2.0
    if source is None or (isinstance(source, str) and not source.strip()):
        return stem
    if not isinstance(source, str):
        raise RowError(
            f"source is neither text nor a whole number ({type(source).__name__})",
            "tables count by it: write a name, or rename the field",
        )
    check_text(source, "source")
    return source


def raw_files(paths: str | Sequence[str]) -> list[Path]:
    """The local files that `paths` name; those of a folder in sorted order, none for a hub id or a URL.

    Raises:
        InputError: as `read_rows`.
    """
    return [Path(name) for name in file_names(paths) if not is_url(name)]


def file_names(paths: str | Sequence[str]) -> list[str]:
    """The local files, as `raw_files` has them, and the URLs that `paths` name, in order.

    Raises:
        InputError: as `read_rows`.
    """
    found: list[str] = []
    for place in map(locate, _names(paths)):
        if place.local and Path(place.name).is_dir():
            found += sorted(str(file) for file in Path(place.name).rglob("*") if file.is_file())
        elif place.kind != "hub":
            found.append(place.name)
    return found


def file_checksums(paths: str | Sequence[str]) -> list[str]:
    """SHA-256 of each of `file_names`: what a set is, wherever it lies; empty for a hub id.

    Raises:
        InputError: as `read_rows`.
        TosslmError: a URL cannot be read to its end.
    """
    return [remote_sha256(name) if is_url(name) else sha256(Path(name)) for name in file_names(paths)]


def _names(paths: str | Sequence[str]) -> list[str]:
    names = [paths] if isinstance(paths, str | os.PathLike) else list(paths)
    if not names:
        raise InputError("no data named; give a path, a list of paths or a hub id")
    return [os.fspath(name) for name in names]
