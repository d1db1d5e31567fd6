"""Parts that were read once, kept in a plain file without a name, so that reading them again costs next to nothing.

Selection reads all scores several times. Decoding Parquet each time would take most of its seconds; holding them
would take memory that grows with the rows. The file takes 4 bytes a token and some 30 a row of disk while it is
open, and is gone when its process is.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import numpy as np

from tosslm.errors import TosslmError
from tosslm.runs.tables import Parts

_HEAD = 3  # int64: rows, bytes of their ids, tokens


@contextmanager
def spooled(folder: Path, parts: Parts) -> Iterator[Callable[[], Parts]]:
    """Read parts to their end.

    Args:
        folder: on whose disk the file lies.
        parts: values are float32.

    Yields:
        What streams the same parts again, as often as it is called; arrays are read-only.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder) as file:
        for ids, lengths, values in parts:
            names = "\n".join(ids).encode()
            file.write(np.array([len(ids), len(names), len(values)], dtype=np.int64).tobytes())
            file.write(names)
            file.write(np.ascontiguousarray(lengths, dtype=np.int64).tobytes())
            file.write(np.ascontiguousarray(values, dtype=np.float32).tobytes())
        file.flush()
        end = file.tell()
        yield lambda: _read(file, end)


def _read(file: IO[bytes], end: int) -> Parts:
    at = 0

    def take(size: int) -> bytes:
        nonlocal at
        read = os.pread(file.fileno(), size, at)  # leaves the file's position alone: two streams may run at a time
        if len(read) != size:
            raise TosslmError("a temporary file was cut short while it was read; run the command again")
        at += size
        return read

    while at < end:
        rows, name_bytes, tokens = np.frombuffer(take(8 * _HEAD), dtype=np.int64).tolist()
        names = take(name_bytes).decode()
        lengths = np.frombuffer(take(8 * rows), dtype=np.int64)
        yield names.split("\n") if rows else [], lengths, np.frombuffer(take(4 * tokens), dtype=np.float32)
