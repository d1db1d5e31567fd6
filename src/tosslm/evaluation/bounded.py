"""Replies of a server that may send anything, for as long as it likes: bounded in length and time."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from functools import cache
from queue import Empty, SimpleQueue
from typing import Any

_LONGEST_REPLY = 4 * 2**20
_LONGEST_PACKED = 2**13  # unpacked it may be a thousand times as long; nobody asked for it packed


def bound(seconds: float, response: Any) -> None:
    """Have a response break off where its body is too long or takes too long, errors' bodies too."""
    kind = next(base for base in type(response.stream).__mro__ if base.__name__ == "SyncByteStream")
    packed = response.headers.get("content-encoding", "identity") != "identity"
    response.stream = _bounded_kind(kind)(response.stream, _LONGEST_PACKED if packed else _LONGEST_REPLY, seconds)


@cache
def _bounded_kind(kind: Any) -> Any:
    class Bounded(kind):  # of httpx, or of what takes its place in later versions of openai
        def __init__(self, stream: Any, limit: int, seconds: float) -> None:
            self._stream, self._left, self._until = stream, limit, time.monotonic() + seconds

        def __iter__(self) -> Iterator[bytes]:
            for part in self._stream:
                self._left -= len(part)
                if self._left < 0:
                    raise ValueError("the reply is too long for a verdict")
                if time.monotonic() > self._until:
                    raise TimeoutError("the reply dripped")
                yield part

        def close(self) -> None:
            self._stream.close()

    return Bounded


def within(seconds: float, call: Callable[[], str]) -> str:
    """What a call gives, if it does so in time; a limit of the whole, where httpx limits each read.

    Raises:
        TimeoutError: it did not; its thread is left to itself.
    """
    box: SimpleQueue[str | Exception] = SimpleQueue()

    def work() -> None:
        try:
            box.put(call())
        except Exception as error:
            box.put(error)

    threading.Thread(target=work, daemon=True).start()
    try:
        found = box.get(timeout=seconds)
    except Empty:
        raise TimeoutError(f"no whole reply within {seconds:g} s") from None
    if isinstance(found, Exception):
        raise found
    return found
