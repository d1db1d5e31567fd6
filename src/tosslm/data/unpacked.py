"""The bytes of a file, unpacked; what is said of one that is damaged."""

from __future__ import annotations

import contextlib
import io
import zlib
from collections.abc import Iterator
from gzip import GzipFile
from pathlib import Path
from typing import Any, BinaryIO, cast

import pyarrow as pa
import zstandard

from tosslm.data.places import Place, check_regular
from tosslm.errors import InputError
from tosslm.remote import open_remote

DAMAGE = (OSError, EOFError, zlib.error, zstandard.ZstdError, pa.ArrowException)
_BOM = b"\xef\xbb\xbf"


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
def _raw(place: Place) -> Iterator[BinaryIO]:
    """The bytes of a file as they lie there."""
    if not place.local:
        with open_remote(place.name) as remote:
            yield cast(BinaryIO, remote)
        return
    check_regular(Path(place.name), place.name)
    with Path(place.name).open("rb") as file:
        yield file


@contextlib.contextmanager
def open_unpacked(place: Place) -> Iterator[BinaryIO]:
    """The bytes of a file, unpacked, without a byte order mark."""
    with _raw(place) as file:
        raw: Any = file
        if place.packing:
            raw = GzipFile(fileobj=file) if place.packing == "gzip" else _ZstdReader(file)
        stream = io.BufferedReader(raw, buffer_size=1 << 17)
        if stream.peek(len(_BOM)).startswith(_BOM):
            stream.read(len(_BOM))
        yield cast(BinaryIO, stream)


def damaged(where: str, error: BaseException) -> InputError:
    """What is said where a file cannot be read on."""
    return InputError(f"{where}: the file cannot be read on from here: {error}; fetch or write it anew")
