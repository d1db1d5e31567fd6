"""The one place that writes files: beside their names, synced, then renamed; and checksums of what was written."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Container, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tosslm.errors import InputError, TosslmError

_UNFINISHED = ".unfinished-"
_FINGERPRINT_KEY = b"tosslm.fingerprint"
_ARROW_SCHEMA_KEY = b"ARROW:schema"


def make_folder(path: Path, mode: int = 0o777) -> None:
    """Make a folder, and those above it; one that is there stays as it is.

    Raises:
        InputError: a file stands there, or on the way.
    """
    try:
        path.mkdir(mode=mode, parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise no_folder(path) from None


def cache_folder() -> Path:
    """Where what can be made again lies: ``TOSSLM_CACHE``, else ``tosslm`` in the user's cache folder."""
    if named := os.environ.get("TOSSLM_CACHE"):
        return Path(named).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "tosslm"


def check_writable(folder: Path) -> None:
    """Refuse a run folder that this process cannot write to.

    Raises:
        InputError: names it.
    """
    if not os.access(folder, os.W_OK):
        raise InputError(
            f"{folder}: cannot be written to; copy the run elsewhere, or name another --run-dir. toss show, verify, "
            "export and plan only read"
        )


def no_folder(path: Path) -> InputError:
    """What is said where a file stands at a folder's place, or on the way there."""
    file = next(one for one in (path, *path.parents) if os.path.lexists(one))
    return InputError(f"{file}: is a file, and a folder is needed there; name another, or move it away")


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A name beside ``path`` to write a file to; it becomes ``path`` when the block ends without an error."""
    make_folder(path.parent)
    beside = path.with_name(f"{_UNFINISHED}{secrets.token_hex(4)}-{path.name}")
    try:
        yield beside
        _sync(beside)
        beside.replace(path)
        _sync(path.parent)
    finally:
        beside.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """A folder beside ``path`` to fill; it takes the place of ``path`` when the block ends without an error."""
    make_folder(path.parent)
    beside = path.with_name(f"{_UNFINISHED}{secrets.token_hex(4)}-{path.name}")
    beside.mkdir()
    try:
        yield beside
        for file in beside.rglob("*"):
            _sync(file)
        if path.exists():
            shutil.rmtree(path)
        beside.replace(path)
        _sync(path.parent)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def remove_unfinished(folder: Path, *, deep: bool = True) -> None:
    """Remove what a killed process left half written.

    Args:
        folder: where; other processes must not write there.
        deep: also in the folders under it.
    """
    for left in sorted((folder.rglob if deep else folder.glob)(f"{_UNFINISHED}*")):
        shutil.rmtree(left, ignore_errors=True) if left.is_dir() else left.unlink(missing_ok=True)


def link_or_copy(source: Path, target: Path) -> None:
    """Give a file, which is never written into, a second name; a copy where the disk knows no links."""
    try:
        os.link(source.resolve(), target)  # of a symbolic link its file
    except OSError:
        shutil.copyfile(source, target)


def make_private(path: Path) -> None:
    """Leave a file, or a folder and all in it, to its owner alone; links are not followed."""
    if path.is_symlink() or not path.exists():
        return
    path.chmod(0o700 if path.is_dir() else 0o600)
    if path.is_dir():
        for one in path.iterdir():
            make_private(one)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sha256(path: Path) -> str:
    """Hex SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fingerprint(*parts: Any) -> str:
    """16 hex digits over JSON-able parts; equal parts give equal digits on every machine."""
    text = json.dumps(parts, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text atomically."""
    with atomic_path(path) as beside:
        beside.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write indented JSON atomically."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


@contextmanager
def parquet_writer(path: Path, schema: pa.Schema, step_fingerprint: str) -> Iterator[pq.ParquetWriter]:
    """Write a Parquet file atomically; it carries its step's fingerprint and a checksum in every page."""
    schema = schema.with_metadata({_FINGERPRINT_KEY: step_fingerprint.encode()})
    with (
        atomic_path(path) as beside,
        pq.ParquetWriter(beside, schema, compression="zstd", write_page_checksum=True) as writer,
    ):
        yield writer


def write_parquet(path: Path, columns: Mapping[str, Any], schema: pa.Schema, step_fingerprint: str) -> None:
    """Write one table of columns to a Parquet file atomically."""
    with parquet_writer(path, schema, step_fingerprint) as writer:
        writer.write_table(pa.table(dict(columns), schema=writer.schema))


@contextmanager
def _opened(path: Path) -> Iterator[pq.ParquetFile]:
    """A Parquet file whose pages are checked as they are read; the one place that opens any."""
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            _check_schema(file)
            yield file
    except FileNotFoundError:
        raise TosslmError(f"{path}: missing; `toss run` makes it again") from None
    except (OSError, ValueError, pa.ArrowException) as error:  # ValueError: a name that is no UTF-8
        raise TosslmError(f"{path}: damaged ({error}); `toss run` makes it again") from None


def _check_schema(file: pq.ParquetFile) -> None:
    """The footer has no checksum, but says twice what its columns are; where it differs a column would be missed."""
    written = (file.metadata.metadata or {}).get(_ARROW_SCHEMA_KEY)
    if written is not None:
        schema = pa.ipc.read_schema(pa.BufferReader(base64.b64decode(written)))
        if not schema.equals(file.schema_arrow):
            raise pa.ArrowInvalid("its columns are not those that were written")


def is_whole(path: Path, step_fingerprint: str) -> bool:
    """Whether a Parquet file belongs to this step and reads without a checksum error."""
    try:
        with _opened(path) as file:
            metadata = file.schema_arrow.metadata or {}
            if metadata.get(_FINGERPRINT_KEY) != step_fingerprint.encode():
                return False
            for group in range(file.num_row_groups):  # batches would put together 65,536 rows, however long
                file.read_row_group(group)
        return True
    except TosslmError:
        return False


def read_tables(path: Path, columns: Iterable[str] | None = None) -> Iterator[pa.Table]:
    """Stream a Parquet file as Arrow tables, as they were written to it.

    Raises:
        TosslmError: it is missing or damaged.
    """
    with _opened(path) as file:
        for group in range(file.num_row_groups):
            yield file.read_row_group(group, columns=list(columns) if columns else None)


def read_batches(
    path: Path, columns: Iterable[str] | None = None, rows: int = 1024, *, wanted: Container[int] | None = None
) -> Iterator[list[dict[str, Any]]]:
    """Stream a Parquet file as lists of at most ``rows`` records.

    Args:
        path: the file.
        columns: of it; all by default.
        rows: in one list.
        wanted: numbers of the lists that are wanted, from 0; others come empty, without the time it takes to make
            them.

    Raises:
        TosslmError: it is missing or damaged.
    """
    with _opened(path) as file:
        for number, batch in enumerate(_batches(file, list(columns) if columns else None, rows)):
            yield batch.to_pylist() if wanted is None or number in wanted else []


def _batches(file: pq.ParquetFile, columns: list[str] | None, rows: int) -> Iterator[pa.Table]:
    """Tables of ``rows`` records, the last one shorter, across the file's row groups."""
    left: list[pa.RecordBatch] = []
    # Group by group: asked for all groups at once, Arrow keeps pages of those that it is done with.
    for group in range(file.num_row_groups):
        for batch in file.iter_batches(batch_size=rows, row_groups=[group], columns=columns):
            left.append(batch)
            while (count := sum(map(len, left))) >= rows:
                whole = pa.Table.from_batches(left)
                yield whole.slice(0, rows)
                left = whole.slice(rows).to_batches() if count > rows else []
    if left:
        yield pa.Table.from_batches(left)
