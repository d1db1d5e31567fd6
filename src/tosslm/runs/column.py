"""A value a token, kept in a plain file without a name, and read a stretch at a time."""

from __future__ import annotations

import os
import tempfile
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from tosslm.errors import TosslmError

_PART = 1 << 18


class Column:
    """Values that are written once, one after another, and read as slices.

    Args:
        folder: on whose disk the file lies; where nothing may be written there, in the system's folder for such.
        dtype: of the values.
    """

    def __init__(self, folder: Path, dtype: Any) -> None:
        self.dtype = np.dtype(dtype)
        self._file = _nameless(folder)
        self._values = 0
        weakref.finalize(self, self._file.close)

    def append(self, values: np.ndarray) -> None:
        """Write values behind those that are there."""
        data = np.ascontiguousarray(values, dtype=self.dtype)
        self._file.write(data)
        self._file.flush()
        self._values += len(data)

    def __len__(self) -> int:
        """How many values there are."""
        return self._values

    def __getitem__(self, which: slice) -> np.ndarray:
        """A stretch of values, read-only, ``[n]``.

        Raises:
            TosslmError: the disk gave back less than was written.
        """
        start, stop, _ = which.indices(self._values)
        size = max(stop - start, 0) * self.dtype.itemsize
        read = os.pread(self._file.fileno(), size, start * self.dtype.itemsize)
        if len(read) != size:
            raise TosslmError("a temporary file was cut short while it was read; run the command again")
        return np.frombuffer(read, dtype=self.dtype)

    def parts(self) -> Iterator[np.ndarray]:
        """All values in turn, a stretch at a time."""
        return (self[start : start + _PART] for start in range(0, len(self), _PART))


def _nameless(folder: Path) -> Any:
    try:
        return tempfile.TemporaryFile(dir=folder)
    except OSError:  # a run that somebody else has, say, and that is only looked at
        return tempfile.TemporaryFile()
