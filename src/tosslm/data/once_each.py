"""JSON of which no field is lost without a word."""

from __future__ import annotations

import json

from tosslm.errors import RowError


class OnceEach:
    """A decoder of JSON that notices a field which stands twice in one object, where the last one would win."""

    def __init__(self) -> None:
        self._repeated: str | None = None
        self._decoder = json.JSONDecoder(object_pairs_hook=self._object)

    def decode(self, text: str) -> object:
        """The value that a whole text is, or the `RowError` that says what stands twice."""
        self._repeated = None
        value = self._decoder.decode(text)
        return value if self._repeated is None else self._twice()

    def raw_decode(self, text: str, at: int) -> tuple[object, int]:
        """The value that begins at a place, or a `RowError` for it, and where it ends."""
        self._repeated = None
        value, end = self._decoder.raw_decode(text, at)
        return (value if self._repeated is None else self._twice()), end

    def _object(self, pairs: list[tuple[str, object]]) -> dict[str, object]:
        made = dict(pairs)
        if len(made) < len(pairs):
            names = [name for name, _ in pairs]
            self._repeated = next(name for name in names if names.count(name) > 1)
        return made

    def _twice(self) -> RowError:
        return RowError(
            f"the field {str(self._repeated)[:40]!r} stands twice in one object",
            "leave one of them, or remove the row",
        )
