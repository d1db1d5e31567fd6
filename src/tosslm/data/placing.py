"""Where an answer's text stands in the rendered conversation, and which piece of it each of its tokens is."""

from __future__ import annotations

from dataclasses import dataclass

from tosslm.data.fields import THINK_END
from tosslm.data.template import Turn

_NO_TEXT = -1


@dataclass(frozen=True, slots=True)
class Placed:
    """Where a message's content stands in the rendered text.

    Args:
        start: first character of it in the rendered text.
        end: its end there, exclusive.
        shift: what to add to a character's index in the text to get its index in the content.
    """

    start: int
    end: int
    shift: int


def locate_content(text: str, turn: Turn, content: str) -> Placed | None:
    """Where an assistant message's content stands in the rendered text.

    Templates may trim the content, put a thinking block before it, or rewrite the one it opens with, so four
    readings are tried in turn: verbatim at the start of the answer, stripped at the start, either anywhere in
    the turn, and what follows the last ``</think>``. None where none of them holds.
    """
    anchor = turn.start
    if THINK_END not in content:
        # Then a block in the rendered turn is the template's own; an answer may well be "think" or a newline.
        anchor = _past_thinking(text, turn)
    stripped = content.strip()
    after_space = anchor
    while after_space < turn.end and text[after_space].isspace():
        after_space += 1
    if text.startswith(content, anchor, turn.end):
        return Placed(anchor, anchor + len(content), -anchor)
    if text.startswith(stripped, after_space, turn.end):
        return _extended(text, anchor, turn.end, content, after_space, stripped)
    answer = content.rpartition(THINK_END)[2].strip()
    for piece, lowest in ((content, anchor), (stripped, anchor), (answer, _past_thinking(text, turn))):
        start = text.find(piece, lowest, turn.end)
        if start >= 0 and piece:
            return _extended(text, anchor, turn.end, content, start, piece)
    return None


def _past_thinking(text: str, turn: Turn) -> int:
    found = text.rfind(THINK_END, turn.start, turn.end)
    if found < 0:
        return turn.start
    end = found + len(THINK_END)
    return end + 2 * text.startswith("\n\n", end, turn.end)


def _extended(text: str, low: int, high: int, content: str, start: int, piece: str) -> Placed:
    # A template that trims one side only leaves the other side's whitespace in the text.
    offset = content.rindex(piece)
    shift, end = offset - start, start + len(piece)
    while start > low and start + shift > 0 and text[start - 1] == content[start - 1 + shift]:
        start -= 1
    while end < high and end + shift < len(content) and text[end] == content[end + shift]:
        end += 1
    return Placed(start, end, shift)


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
