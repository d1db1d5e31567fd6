"""Tokenizers that are read from a folder once: a run opens its base's, and in tests that is most of what it does."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer


class KnownTokenizers:
    """Stands for ``AutoTokenizer``: a folder whose files are as they were gives a tokenizer as it was read.

    What a caller sets on it is the caller's alone; the vocabulary behind it is shared, and nobody adds to it.
    """

    def __init__(self) -> None:
        self._known: dict[Any, Any] = {}

    def from_pretrained(self, folder: Path, **options: Any) -> Any:
        """As ``AutoTokenizer.from_pretrained``, of a folder on this machine."""
        files = [(file.name, file.stat()) for file in sorted(Path(folder).iterdir())]
        marks = tuple((name, stat.st_ino, stat.st_size, stat.st_mtime_ns) for name, stat in files)
        key = (str(folder), marks, tuple(sorted(options.items())))
        if key not in self._known:
            self._known[key] = AutoTokenizer.from_pretrained(folder, **options)
        own = copy.copy(self._known[key])
        for name, value in vars(own).items():
            if isinstance(value, dict | list | set):
                setattr(own, name, copy.copy(value))
        return own
