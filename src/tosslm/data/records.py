"""Records out of files: what a path names, and its records one by one with their line or row number."""

import io
import itertools
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias, cast

import pyarrow as pa
import pyarrow.parquet as pq

from tosslm.data.formats import HH_FIELDS, REQUIRED_FIELDS
from tosslm.data.json_stream import (
    PASSED_OVER,
    JsonStream,
    decode_line,
    list_in_object,
    too_long,
    values,
    wrapped_list,
)
from tosslm.data.places import Place
from tosslm.data.unpacked import DAMAGE, damaged, open_unpacked
from tosslm.errors import InputError, RowError

# Line or row number from 1, and the record, or the RowError that says why there is none.
Numbered: TypeAlias = Iterator[tuple[int, object]]

_BATCH_ROWS = 64
MAX_ROW_BYTES = 10_000_000
"""Bytes of a row, unless the config says otherwise."""
_PACKED = 50
"""Text packs to a fifth or a tenth; what packs to less than a fiftieth may hold anything."""


def records(
    place: Place, *, split: str | None = None, field: str | None = None, max_row_bytes: int = MAX_ROW_BYTES
) -> Numbered:
    """Give the records of one place, in order, never holding more than a batch of them.

    A record of more than ``max_row_bytes`` is a `RowError`. A line or a JSON value is passed over when that many have
    been read of it; a row of Parquet is told by its size in Arrow, once its page is unpacked.

    Args:
        place: what to read.
        split: of a saved DatasetDict or a hub data set; other places have none (`check_split`).
        field: the user's field of HH text, which marks a JSON object as a record.
        max_row_bytes: of a row, unpacked.

    Raises:
        InputError: the place as a whole cannot be read, or not past some point.
    """
    if place.kind == "lines":
        return _lines(place, max_row_bytes)
    if place.kind == "json":
        return _json(place, field, max_row_bytes)
    if place.kind == "parquet":
        return _parquet(place, max_row_bytes)
    if place.kind == "folder":
        return _folder(place, split, max_row_bytes)
    return _hub(place, split or "train", max_row_bytes)


def _lines(place: Place, limit: int) -> Numbered:
    number = 0
    try:
        with open_unpacked(place) as stream:
            for number, line in enumerate(_bounded_lines(stream, place.name, limit), 1):
                if isinstance(line, RowError):
                    yield number, line
                elif line.strip():
                    yield number, decode_line(line)
    except DAMAGE as error:
        raise damaged(f"{place.name}:{number + 1}", error) from error


def _bounded_lines(stream: BinaryIO, name: str, limit: int) -> Iterator[bytes | RowError]:
    """The lines of a file, each of at most `limit` bytes before its line feed."""
    number = 0
    while line := stream.readline(limit + 2):  # with a carriage return and a line feed
        number += 1
        whole = line.endswith(b"\n") or len(line) < limit + 2
        if whole and len(line.rstrip(b"\r\n")) <= limit:
            yield line
            continue
        passed = len(line)
        while not line.endswith(b"\n") and (line := stream.readline(1 << 20)):
            passed += len(line)
            if passed > PASSED_OVER * limit:
                raise InputError(
                    f"{name}:{number}: a line of more than {PASSED_OVER * limit:,} bytes, unpacked; it is not read "
                    "to its end: write one JSON object a line"
                )
        yield too_long(limit)


def _json(place: Place, field: str | None, limit: int) -> Numbered:
    walk: JsonStream | None = None
    try:
        layout, wrapped = _json_layout(place, field, limit)
        if layout == "lines":
            yield from _lines(place, limit)
            return
        with open_unpacked(place) as stream:
            walk = JsonStream(stream, place.name, limit)
            if layout == "values":
                yield from values(walk)
                return
            yield from walk.elements() if wrapped is None else list_in_object(walk, wrapped)
            if walk.peek():
                raise InputError(f"{place.name}:{walk.line}: text after the end of the list; remove it")
    except DAMAGE as error:
        raise damaged(f"{place.name}:{walk.line if walk else 1}", error) from error


def _json_layout(place: Place, field: str | None, limit: int) -> tuple[str, str | None]:
    """How a .json file holds its rows: ``list`` (and the list's field), ``lines`` or ``values``."""
    record_fields = {*HH_FIELDS, *itertools.chain(*REQUIRED_FIELDS.values()), *([field] if field else [])}
    with open_unpacked(place) as stream:
        walk = JsonStream(stream, place.name, limit)
        first = walk.peek()
        if first == "[":
            return "list", None
        if first != "{":
            return "lines", None
        if (wrapped := wrapped_list(walk, frozenset(record_fields))) is not None:
            return "list", wrapped
    with open_unpacked(place) as stream:
        # Two lines, because in a file with one object a line the very first may be the broken one.
        lines = _bounded_lines(stream, place.name, limit)
        filled = (line for line in lines if isinstance(line, RowError) or line.strip())
        opening = list(itertools.islice(filled, 2))
    by_line = len(opening) < 2 or any(
        isinstance(line, bytes) and isinstance(decode_line(line), dict) for line in opening
    )
    return "lines" if by_line else "values", None


def _parquet(place: Place, limit: int) -> Numbered:
    number = 0
    try:
        with open_unpacked(place) as stream:
            packed = stream.seek(0, io.SEEK_END)
            stream.seek(0)
            # Without pre-buffering, which would hold whole row groups.
            file = pq.ParquetFile(stream, pre_buffer=False)
            if twice := [name for name, times in Counter(file.schema_arrow.names).items() if times > 1]:
                raise InputError(f"{place.name}: column {twice[0]!r} stands twice; write the file with one of them")
            for group in range(file.num_row_groups):
                # Columns' own sizes are not asked for: damaged ones end the process, where nothing can be caught.
                rows, unpacked = (found := file.metadata.row_group(group)).num_rows, found.total_byte_size
                headers = 10_000 * found.num_columns  # of pages, with statistics in them
                if rows == 1 and unpacked > limit + headers:
                    number += 1
                    yield number, too_long(limit)
                    continue
                _check_packing(f"{place.name}: row group {group}", unpacked, packed, limit)
                # One long text in a dictionary may stand in every row.
                suspect = unpacked > limit and (unpacked > _PACKED * packed or unpacked > limit * rows)
                batches = file.iter_batches(batch_size=1 if suspect else _BATCH_ROWS, row_groups=[group])
                done = number
                for number, record in _numbered(batches, limit, done):
                    yield number, record
    except InputError:
        raise
    except Exception as error:  # Arrow gives up on damage in many ways
        raise damaged(f"{place.name}:{number + 1}", error) from error


def _check_packing(where: str, unpacked: int, packed: int, limit: int) -> None:
    """Refuse a row group that a single value of it may fill with more than there is memory for.

    A value is whole in its page, and a page is unpacked as a whole, so nothing smaller can be asked for.

    Raises:
        InputError: says how much it would take.
    """
    if unpacked > _PACKED * max(packed, limit):
        raise InputError(
            f"{where} unpacks to {unpacked:,} bytes, more than {_PACKED} times the size of the file, so a single "
            f"value may be far longer than a row may be ({limit:,} bytes); write the file with smaller row groups, "
            "or raise data.max_row_bytes"
        )


def _numbered(batches: Iterator[Any], limit: int, number: int = 0) -> Numbered:
    for batch in batches:
        try:
            rows = batch.to_pylist() if batch.nbytes <= limit else None
        except ValueError:
            rows = None
        for at in range(batch.num_rows):
            number += 1
            yield number, _single(batch.slice(at, 1), limit) if rows is None else rows[at]


def _single(row: Any, limit: int) -> object:
    try:
        # A slice of what pandas calls a category bears all categories.
        shared = any(pa.types.is_dictionary(column.type) for column in row.schema)
        if row.nbytes > limit and not (shared and _size(row.to_pylist()) <= limit):
            return too_long(limit)
        return row.to_pylist()[0]
    except ValueError as error:
        return RowError(f"the row cannot be read: {error}", "write it anew, its texts as UTF-8")


def _folder(place: Place, split: str | None, limit: int) -> Numbered:
    import datasets

    path, number = Path(place.name), 0
    try:
        if (path / "dataset_dict.json").is_file():
            splits = list(datasets.load_from_disk(path, keep_in_memory=False))
            if split not in splits:
                wrong = f"no split {split!r}" if split else "several splits"
                raise InputError(f"{place.name}: {wrong}; set split to one of {', '.join(splits)}")
            path = path / cast(str, split)
        # In Arrow format, because a format saved with the data would turn lists into tensors.
        saved = datasets.load_from_disk(path, keep_in_memory=False).with_format("arrow")
        for number, record in _numbered(saved.iter(batch_size=_BATCH_ROWS), limit):
            yield number, record
    except InputError:
        raise
    except Exception as error:  # datasets and Arrow give up on damage in many ways
        raise damaged(f"{place.name}:{number + 1}", error) from error


def _hub(place: Place, split: str, limit: int) -> Numbered:
    import datasets

    number = 0
    try:
        for number, record in enumerate(datasets.load_dataset(place.name, split=split, streaming=True), 1):
            yield number, too_long(limit) if _size(record) > limit else record
    # Whatever the hub, the network or a data file of some kind raises: none of it is the user's to debug.
    except Exception as error:
        raise InputError(
            f"{place.name}: no such file or folder here, and on the hub its split {split!r} cannot be read "
            f"past row {number}: {error}; check the name, the split and the connection"
        ) from error


def _size(record: object) -> int:
    """Bytes of the texts in a record."""
    size, waiting = 0, [record]
    while waiting:
        one = waiting.pop()
        if isinstance(one, str):
            # Four bytes for a lone surrogate are near enough.
            size += len(one.encode("utf-8", "replace"))
        elif isinstance(one, bytes):
            size += len(one)
        elif isinstance(one, Mapping):
            waiting += one.values()
        elif isinstance(one, list | tuple):
            waiting += one
    return size
