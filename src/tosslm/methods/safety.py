"""Safety demonstrations: the rows of ``compare.safety``, which several methods learn from."""

from __future__ import annotations

from collections.abc import Callable

from tosslm.config import Config
from tosslm.data.rows import BadRow, Row, read_rows
from tosslm.errors import InputError


def read_safety(config: Config) -> list[Row]:
    """Every readable row of ``compare.safety``, in order; none where the config names no such rows."""
    source = config.compare.safety
    if source is None:
        return []
    read = read_rows(source.path, format=source.format, field=source.field, split=source.split)
    return [row for row in read if not isinstance(row, BadRow)]


def needs_safety(method: str) -> Callable[[Config], None]:
    """A check that refuses a config without ``compare.safety`` in the method's name."""

    def check(config: Config) -> None:
        if config.compare.safety is None:
            raise InputError(f"{method}: name rows of safe answers to unsafe requests in compare.safety.path")

    return check
