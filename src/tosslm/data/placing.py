"""Which piece of an answer each of its tokens is, and what of it the chat template does not write."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tosslm.data.fields import REASONING
from tosslm.data.template import Placed, Turn
from tosslm.errors import RowError

_NO_TEXT = -1


def unreasoned(conversation: Sequence[Mapping[str, Any]], text: str, turns: Sequence[Turn]) -> list[list[int]]:
    """``[message, 0, 0]`` of each answer whose reasoning the template leaves out, as many do in earlier turns.

    Raises:
        RowError: it leaves out that of the last message too, so it knows none of that name.
    """
    left_out = []
    for turn in turns:
        message = conversation[turn.message]
        for name in REASONING:
            if text.find(message.get(name, "").strip(), turn.start, turn.end) >= 0:
                continue
            if turn.message == len(conversation) - 1:
                raise RowError(
                    f"message {turn.message} has {name}, and the chat template does not write it",
                    "rename it to what the template calls reasoning, write it into the answer's text as the model "
                    "does, or remove the field",
                )
            left_out.append([turn.message, 0, 0])
    return left_out


def token_spans(
    starts: list[int], ends: list[int], first: int, stop: int, message: int, placed: Placed | None
) -> list[list[int]]:
    """The piece of the content that each token in ``[first, stop)`` is: ``[stop - first, 3]``."""
    spans = [[_NO_TEXT] * 3 for _ in range(first, stop)]
    if placed is None:
        return spans
    covered, last = placed.start, None
    for span, start, end in zip(spans, starts[first:stop], ends[first:stop], strict=True):
        # Tokenizers that trim whitespace out of their offsets leave gaps: a gap belongs to the token after
        # it.
        low, high = max(min(start, covered), placed.start), min(end, placed.end)
        if low < high and start < placed.end:
            span[:] = [message, low + placed.shift, high + placed.shift]
            covered, last = high, span
    if last is not None:
        last[2] = placed.end + placed.shift
    return spans


def lost_parts(content: str, message: int, placed: Placed | None) -> list[list[int]]:
    """The parts of a content beside the one that was found, as ``[message, start, end]``."""
    low = len(content) - len(content.lstrip())
    high = len(content.rstrip())
    start = end = high  # nothing of it was found
    if placed is not None:
        start, end = placed.start + placed.shift, placed.end + placed.shift
    return [[message, a, b] for a, b in ((low, min(start, high)), (max(end, low), high)) if a < b]
