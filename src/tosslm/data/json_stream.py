"""JSON files of any length, one value at a time, with the line each value begins on."""

import codecs
import json
import re
import sys
from collections.abc import Iterator
from typing import BinaryIO

from tosslm.data.once_each import OnceEach
from tosslm.errors import InputError, RowError

BLOCK = 1 << 16  # bytes
PASSED_OVER = 1000
"""What is so many times longer than a row may be is no row, but a file without an end."""
# The longest piece of JSON that fails at its start when its end has not been read yet: an escaped
# surrogate pair is 12 characters, -Infinity 9.
_LONGEST_TOKEN = 16
_STRUCTURE = re.compile(r'["\[\]{}]')
_BARE = re.compile(r"[^,\]}\s]*")
_SPACE = re.compile(r"[ \t\n\r]*")


def _not_utf8() -> RowError:
    return RowError("the row has bytes that are not UTF-8", "save the file as UTF-8 or remove the row")


def too_long(limit: int) -> RowError:
    """What is said of a row, or a value, of more bytes than are read."""
    return RowError(f"the row has more than {limit:,} bytes", "shorten it, leave it out, or raise data.max_row_bytes")


def decode_line(line: bytes) -> object:
    """Read one line as JSON; a line that cannot be read gives the `RowError` that says why."""
    try:
        return OnceEach().decode(line.decode("utf-8"))
    except UnicodeDecodeError:
        return _not_utf8()
    except RecursionError:
        return RowError("the row is nested too deeply", "flatten it or remove it")
    except json.JSONDecodeError as error:
        return RowError(f"broken JSON: {error.msg} at character {error.pos + 1}", "mend the row or remove it")
    # Python refuses to read an integer of more than 4,300 digits, and says so without a place.
    except ValueError:
        return RowError("the row has a number of thousands of digits", "write it as text or remove the row")


class JsonStream:
    """A walk through a JSON text that holds only what has not been consumed.

    Args:
        stream: the bytes; those that are not UTF-8 show up as lone surrogates and spoil only the value
            they stand in.
        name: the file, for messages.
        limit: bytes of a value; one of more is passed over unread.

    Attributes:
        name: the file.
        line: the line of the next character, from 1.
    """

    def __init__(self, stream: BinaryIO, name: str, limit: int = sys.maxsize) -> None:
        self.line = 1
        self._limit = limit
        self._decoder = OnceEach()
        self._stream = stream
        self.name = name
        self._decode = codecs.getincrementaldecoder("utf-8")("surrogateescape").decode
        self._text = ""
        self._at = 0
        self._ended = False

    def peek(self) -> str:
        """Skip white space and show the next character, or ``""`` at the end of the file."""
        while True:
            space = _SPACE.match(self._text, self._at)
            self._consume(space.end() if space else self._at)
            if self._at < len(self._text):
                return self._text[self._at]
            if self._ended:
                return ""
            self._grow()

    def take(self, character: str) -> None:
        """Consume `character`.

        Raises:
            InputError: something else comes next.
        """
        if self.peek() != character:
            raise self._broken(f"expected {character!r}", self._at)
        self._consume(self._at + 1)

    def value(self) -> object:
        """Consume one value; one that is too long or not UTF-8 gives a `RowError` in its place.

        Raises:
            InputError: the JSON is broken here, so that where the next value begins cannot be known.
        """
        self.peek()
        while True:
            value, end = self._attempt()
            if end is not None:
                break
            if len(self._text) - self._at > self._limit:
                self._pass_over()
                return too_long(self._limit)
            self._grow()
        text = self._text[self._at : end]
        self._consume(end)
        try:
            size = len(text.encode("utf-8"))
        except UnicodeEncodeError:
            return _not_utf8()
        return too_long(self._limit) if size > self._limit else value

    def elements(self) -> Iterator[tuple[int, object]]:
        """Consume an array, giving each element with the line it begins on."""
        self.take("[")
        if self.peek() != "]":
            while True:
                self.peek()
                yield self.line, self.value()
                if self.peek() == "]":
                    break
                self.take(",")
        self.take("]")

    def fields(self) -> Iterator[str]:
        """Consume an object, stopping after each key for the caller to consume its value."""
        self.take("{")
        if self.peek() != "}":
            while True:
                key = self.value() if self.peek() == '"' else None
                if not isinstance(key, str):
                    raise self._broken("expected a field's name", self._at)
                self.take(":")
                yield key
                if self.peek() == "}":
                    break
                self.take(",")
        self.take("}")

    def _attempt(self) -> tuple[object, int | None]:
        """Decode the value at hand; an end of None means that more of it must be read first."""
        try:
            value, end = self._decoder.raw_decode(self._text, self._at)
        except json.JSONDecodeError as error:
            # Telling a cut from a break keeps a file with one broken value from being read whole.
            cut = error.msg.startswith("Unterminated string") or error.pos >= len(self._text) - _LONGEST_TOKEN
            if self._ended or not cut:
                raise self._broken(error.msg, error.pos) from None
            return None, None
        except (RecursionError, ValueError) as error:
            raise self._broken(str(error), self._at) from None
        # A bare number may go on in the next block; everything else says where it ends.
        whole = (
            isinstance(value, dict | list | str | RowError) or self._ended or end < len(self._text) - _LONGEST_TOKEN
        )
        return value, end if whole else None

    def _pass_over(self) -> None:
        """Consume the value at hand, holding a block of it at a time; that it is sound JSON is not checked."""
        bare = self._text[self._at] not in '"[{'
        passed, ends = 0, _Ends()
        while True:
            if bare:
                end = _BARE.match(self._text, self._at).end()  # type: ignore[union-attr]
                ended = end < len(self._text)
            else:
                end, ended = ends.find(self._text, self._at)
            passed += end - self._at
            self._consume(end)
            if ended or (bare and self._ended):
                return
            if self._ended:
                raise self._broken("a value without an end", self._at)
            if passed > PASSED_OVER * self._limit:
                raise InputError(
                    f"{self.name}:{self.line}: a value of more than {PASSED_OVER * self._limit:,} bytes, unpacked; "
                    "it is not read to its end: write one JSON object a line"
                )
            self._grow()

    def _grow(self) -> None:
        # At least as much as is held already, so that a value of n characters is scanned O(n) in all.
        raw = self._stream.read(max(BLOCK, len(self._text) - self._at))
        self._ended = not raw
        self._text = self._text[self._at :] + self._decode(raw, final=self._ended)
        self._at = 0

    def _consume(self, end: int) -> None:
        self.line += self._text.count("\n", self._at, end)
        self._at = end

    def _broken(self, reason: str, at: int) -> InputError:
        line = self.line + self._text.count("\n", self._at, at)
        return InputError(f"{self.name}:{line}: broken JSON: {reason}; mend the file or save it as JSON Lines")


class _Ends:
    """Where a list, an object or a text ends, told block by block from its brackets and quotation marks."""

    def __init__(self) -> None:
        self._depth = 0
        self._quoted = False
        self._escaped = False

    def find(self, text: str, at: int) -> tuple[int, bool]:
        """How far `text` belongs to the value, and whether the value ends there."""
        while at < len(text):
            if self._escaped:
                self._escaped = False
                at += 1
            elif self._quoted:
                at = self._past_text(text, at)
            elif (found := _STRUCTURE.search(text, at)) is None:
                at = len(text)
            else:
                at = found.end()
                self._quoted = found[0] == '"'
                self._depth += {"[": 1, "{": 1, "]": -1, "}": -1}.get(found[0], 0)
            if self._depth == 0 and not self._quoted:
                return at, True
        return at, False

    def _past_text(self, text: str, at: int) -> int:
        found = text.find('"', at)
        piece = text[at:found] if found >= 0 else text[at:]
        # Of backslashes in a row every other one escapes what comes after it.
        odd = (len(piece) - len(piece.rstrip("\\"))) % 2 == 1
        if found < 0:
            self._escaped = odd
            return len(text)
        self._quoted = odd
        return found + 1


def wrapped_list(stream: JsonStream, record_fields: frozenset[str]) -> str | None:
    """Name the one list of objects that a JSON object holds, or None where the object is itself a record.

    Raises:
        InputError: there are several such lists.
    """
    filled: list[str] = []
    empty: list[str] = []
    try:
        for key in stream.fields():
            if key in record_fields:
                return None
            if stream.peek() != "[":
                stream.value()
                continue
            elements = stream.elements()
            _, first = next(elements, (0, None))
            if first is None:
                empty.append(key)
            elif isinstance(first, dict | RowError):
                filled.append(key)
            for _ in elements:
                pass
        if stream.peek():
            return None
    except InputError:
        # Broken inside the list: its rows are still wanted, up to the break, which then is reported.
        return filled[0] if filled else None
    if len(filled) > 1:
        raise InputError(f"{stream.name}: several lists of objects ({', '.join(filled)}); keep the one with the rows")
    return next(iter(filled or empty), None)


def list_in_object(stream: JsonStream, name: str) -> Iterator[tuple[int, object]]:
    """Give the elements of the list called `name` in the object at hand, and pass over its other fields."""
    for key in stream.fields():
        if key == name:
            yield from stream.elements()
        elif stream.peek() == "[":
            for _ in stream.elements():
                pass
        else:
            stream.value()


def values(stream: JsonStream) -> Iterator[tuple[int, object]]:
    """Give values that follow one another without commas, each perhaps over several lines."""
    while stream.peek():
        line = stream.line
        yield line, stream.value()
