"""Records out of files: what a path names, and its records one by one with their line or row number."""

import contextlib
import io
import itertools
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias, cast

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import zstandard

from tosslm.data.formats import HH_FIELDS, REQUIRED_FIELDS
from tosslm.data.json_stream import JsonStream, decode_line, list_in_object, values, wrapped_list
from tosslm.errors import InputError, RowError

# Line or row number from 1, and the record, or the RowError that says why there is none.
Numbered: TypeAlias = Iterator[tuple[int, object]]

_KINDS = {".jsonl": "lines", ".ndjson": "lines", ".json": "json", ".parquet": "parquet"}
_PACKINGS = {".gz": "gzip", ".zst": "zstd"}
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
_BOM = b"\xef\xbb\xbf"
_BATCH_ROWS = 64
_DAMAGE = (OSError, EOFError, zlib.error, zstandard.ZstdError, pa.ArrowException)


@dataclass(frozen=True, slots=True)
class Place:
    """What a path of the user names.

    Attributes:
        name: the path as the user wrote it.
        kind: ``lines``, ``json``, ``parquet``, ``folder`` or ``hub``.
        packing: ``gzip``, ``zstd`` or None.
        stem: the last part of the name without its known extensions.
    """

    name: str
    kind: str
    packing: str | None
    stem: str

    @property
    def local(self) -> bool:
        """Whether it lies on this machine."""
        return self.kind != "hub" and "://" not in self.name


def locate(name: str) -> Place:
    """Tell what `name` is, without reading it.

    Raises:
        InputError: there is no such file, or it is of no kind that can be read.
    """
    path = Path(name)
    if path.is_dir():
        return _locate_folder(path, name)
    bare, packing = path, _PACKINGS.get(path.suffix.lower())
    if packing:
        bare = path.with_suffix("")
    kind = _KINDS.get(bare.suffix.lower())
    known = kind is not None and not (kind == "parquet" and packing)
    if path.exists() or "://" in name:
        if not known or kind is None:
            raise InputError(
                f"{name}: unknown extension; use .jsonl, .ndjson or .json (each also .gz or .zst) or .parquet"
            )
        return Place(name, kind, packing, bare.stem)
    if known or not _HUB_ID.fullmatch(name):
        raise InputError(f"{name}: no such file; check the path (relative ones start from the working directory)")
    return Place(name, "hub", None, path.name)


def _locate_folder(path: Path, name: str) -> Place:
    if not any((path / mark).is_file() for mark in ("state.json", "dataset_dict.json")):
        raise InputError(f"{name}: a folder, but not one saved by datasets.save_to_disk; name the files in it")
    return Place(name, "folder", None, path.resolve().name)


def records(place: Place, *, split: str | None = None, field: str | None = None) -> Numbered:
    """Give the records of one place, in order, never holding more than a batch of them.

    Args:
        place: what to read.
        split: of a saved DatasetDict or a hub data set; other places have none and take no notice.
        field: the user's field of HH text, which marks a JSON object as a record.

    Raises:
        InputError: the place as a whole cannot be read, or not past some point.
    """
    if place.kind == "lines":
        return _lines(place)
    if place.kind == "json":
        return _json(place, field)
    if place.kind == "parquet":
        return _parquet(place)
    if place.kind == "folder":
        return _folder(place, split)
    return _hub(place, split or "train")


class _ZstdReader(io.RawIOBase):
    """All frames of a Zstandard file; fsspec's reader stops after one and takes a cut file for whole."""

    _INPUT_BYTES = 1 << 10  # small, because text that repeats itself may open to a thousand times its size

    def __init__(self, packed: BinaryIO) -> None:
        self._packed = packed
        self._frame: Any = None
        self._ahead = b""
        self._opened = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._opened:
            piece = self._ahead or self._packed.read(self._INPUT_BYTES)
            if not piece:
                if self._frame is not None and not self._frame.eof:
                    raise EOFError("the Zstandard data end in the middle")
                return 0
            if self._frame is None or self._frame.eof:
                self._frame = zstandard.ZstdDecompressor().decompressobj()
            self._opened = memoryview(self._frame.decompress(piece))
            self._ahead = self._frame.unused_data
        size = min(len(buffer), len(self._opened))
        buffer[:size] = self._opened[:size]
        self._opened = self._opened[size:]
        return size


@contextlib.contextmanager
def _open(place: Place) -> Iterator[BinaryIO]:
    """The bytes of a file, unpacked, without a byte order mark."""
    # The local file system is named, because fsspec reads "::" and "~" in a bare path as its own syntax.
    try:
        system, path = (fsspec.filesystem("file"), place.name) if place.local else fsspec.url_to_fs(place.name)
    except (ValueError, ImportError) as error:
        raise InputError(f"{place.name}: {error}; install the driver or copy the file here") from error
    compression = "gzip" if place.packing == "gzip" else None
    with system.open(path, "rb", compression=compression) as opened:
        raw = _ZstdReader(opened) if place.packing == "zstd" else opened
        stream = io.BufferedReader(raw, buffer_size=1 << 17)
        if stream.peek(len(_BOM)).startswith(_BOM):
            stream.read(len(_BOM))
        yield cast(BinaryIO, stream)


def _damaged(where: str, error: BaseException) -> InputError:
    return InputError(f"{where}: the file cannot be read on from here: {error}; fetch or write it anew")


def _lines(place: Place) -> Numbered:
    number = 0
    try:
        with _open(place) as stream:
            for number, line in enumerate(stream, 1):
                if line.strip():
                    yield number, decode_line(line)
    except _DAMAGE as error:
        raise _damaged(f"{place.name}:{number + 1}", error) from error


def _json(place: Place, field: str | None) -> Numbered:
    walk: JsonStream | None = None
    try:
        layout, wrapped = _json_layout(place, field)
        if layout == "lines":
            yield from _lines(place)
            return
        with _open(place) as stream:
            walk = JsonStream(stream, place.name)
            if layout == "values":
                yield from values(walk)
                return
            yield from walk.elements() if wrapped is None else list_in_object(walk, wrapped)
            if walk.peek():
                raise InputError(f"{place.name}:{walk.line}: text after the end of the list; remove it")
    except _DAMAGE as error:
        raise _damaged(f"{place.name}:{walk.line if walk else 1}", error) from error


def _json_layout(place: Place, field: str | None) -> tuple[str, str | None]:
    """How a .json file holds its rows: ``list`` (and the list's field), ``lines`` or ``values``."""
    record_fields = {*HH_FIELDS, *itertools.chain(*REQUIRED_FIELDS.values()), *([field] if field else [])}
    with _open(place) as stream:
        walk = JsonStream(stream, place.name)
        first = walk.peek()
        if first == "[":
            return "list", None
        if first != "{":
            return "lines", None
        if (wrapped := wrapped_list(walk, frozenset(record_fields))) is not None:
            return "list", wrapped
    with _open(place) as stream:
        # Two lines, because in a file with one object a line the very first may be the broken one.
        opening = list(itertools.islice((line for line in stream if line.strip()), 2))
    by_line = len(opening) < 2 or any(isinstance(decode_line(line), dict) for line in opening)
    return "lines" if by_line else "values", None


def _parquet(place: Place) -> Numbered:
    number = 0
    try:
        with _open(place) as stream:
            # Without pre-buffering, which would hold whole row groups.
            batches = pq.ParquetFile(stream, pre_buffer=False).iter_batches(batch_size=_BATCH_ROWS)
            for number, record in _numbered(batches):
                yield number, record
    except _DAMAGE as error:
        raise _damaged(f"{place.name}:{number + 1}", error) from error


def _numbered(batches: Iterator[Any]) -> Numbered:
    number = 0
    for batch in batches:
        try:
            rows = batch.to_pylist()
        except ValueError:
            rows = [_single(batch.slice(at, 1)) for at in range(batch.num_rows)]
        for row in rows:
            number += 1
            yield number, row


def _single(row: Any) -> object:
    try:
        return row.to_pylist()[0]
    except ValueError as error:
        return RowError(f"the row cannot be read: {error}", "write it anew, its texts as UTF-8")


def _folder(place: Place, split: str | None) -> Numbered:
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
        for number, record in _numbered(saved.iter(batch_size=_BATCH_ROWS)):
            yield number, record
    except (*_DAMAGE, ValueError, KeyError, TypeError) as error:
        raise _damaged(f"{place.name}:{number + 1}", error) from error


def _hub(place: Place, split: str) -> Numbered:
    import datasets

    number = 0
    try:
        for number, record in enumerate(datasets.load_dataset(place.name, split=split, streaming=True), 1):
            yield number, record
    # Whatever the hub, the network or a data file of some kind raises: none of it is the user's to debug.
    except Exception as error:
        raise InputError(
            f"{place.name}: no such file or folder here, and on the hub its split {split!r} cannot be read "
            f"past row {number}: {error}; check the name, the split and the connection"
        ) from error
