"""Where tokens lie in the text of their answers, so that two tokenisations can be compared; pure NumPy.

The answers of a row lie one after the other on one axis, a place a character and one place between two answers. A
token with text is a stretch of the axis, and several may share a character, as the pieces of an emoji do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tosslm.ragged import sums_before


@dataclass(frozen=True, slots=True)
class Axis:
    """The characters of a row's answers.

    Attributes:
        base: where each answer begins, by message index.
        written: where each answer ends, white space at its end aside.
        size: places in all.
    """

    base: Mapping[int, int]
    written: Mapping[int, int]
    size: int


@dataclass(frozen=True, slots=True)
class Tokens:
    """The response tokens of a row, in order.

    Attributes:
        answer: int64 ``[n]``, message index of the answer that each belongs to; -1 where that cannot be told.
        start: int64 ``[n]``, its first character on the axis; -1 where it has no text.
        end: int64 ``[n]``, its end there, exclusive; -1 where it has no text.
        ids: int64 ``[n]``, token ids.
        gap: int64 ``[n]``, the end of the text before it in its answer, else where the answer begins.
    """

    answer: np.ndarray
    start: np.ndarray
    end: np.ndarray
    ids: np.ndarray
    gap: np.ndarray

    @property
    def has_text(self) -> np.ndarray:
        """Bool ``[n]``, which of them have text."""
        return self.start >= 0


def make_axis(contents: Mapping[int, str]) -> Axis:
    """The axis of a row's answers.

    Args:
        contents: the text of each answer, by message index, in ascending order.
    """
    base: dict[int, int] = {}
    written: dict[int, int] = {}
    at = 0
    for message, content in contents.items():
        base[message], written[message] = at, at + len(content.rstrip())
        at += len(content) + 1
    return Axis(base, written, at)


def answers_of(response_mask: np.ndarray, messages: np.ndarray, answers: Sequence[int]) -> np.ndarray:
    """The answer that each response token belongs to.

    A token without text belongs to the text before it in its run of response tokens, else to the text after it. A run
    without any text is the next answer that may be meant.

    Args:
        response_mask: bool ``[T]``.
        messages: int ``[n]``, a response token's message index; -1 where it has no text.
        answers: message indices of the answers that may have response tokens, ascending.

    Returns:
        int64 ``[n]``; -1 where no answer is left for a run.

    Examples:
        >>> mask = np.array([False, True, True, False, True, True, True])
        >>> answers_of(mask, np.array([1, -1, -1, 3, -1]), [1, 3]).tolist()
        [1, 1, 3, 3, 3]
    """
    count = len(messages)
    runs = np.cumsum(np.diff(np.flatnonzero(response_mask), prepend=-1) > 1)
    places = np.arange(count)
    before = np.maximum.accumulate(np.where(messages >= 0, places, -1))
    after = np.minimum.accumulate(np.where(messages >= 0, places, count)[::-1])[::-1]
    found = np.full(count, -1, dtype=np.int64)
    for near in (after, before):
        inside = (near >= 0) & (near < count)
        inside[inside] = runs[near[inside]] == runs[inside]
        found[inside] = messages[near[inside]]
    for run in np.unique(runs[found < 0]):
        first, stop = np.searchsorted(runs, [run, run + 1])
        low = found[:first].max(initial=-1)
        high = messages[after[first]] if after[first] < count else np.inf
        found[first:stop] = next((answer for answer in answers if low < answer < high), -1)
    return found


def place_tokens(axis: Axis, answer: np.ndarray, offsets: np.ndarray, ids: np.ndarray) -> Tokens:
    """Response tokens on an axis.

    Args:
        axis: of their row's answers; each answer of ``answer`` is on it.
        answer: int ``[n]``, as of ``answers_of``.
        offsets: int ``[n, 3]``, message index, start and end in that message; -1 where a token has no text.
        ids: int ``[n]``.
    """
    base = np.array([axis.base.get(message, -1) for message in answer.tolist()], dtype=np.int64)
    has_text = offsets[:, 0] >= 0
    start, end = (np.where(has_text, base + offsets[:, column], -1) for column in (1, 2))
    gap = np.maximum.accumulate(np.where(has_text, end, base))
    return Tokens(answer.astype(np.int64), start, end, ids.astype(np.int64), gap)


def covered(tokens: Tokens, size: int, chosen: np.ndarray | None = None) -> np.ndarray:
    """Bool ``[size]``: the characters that some token covers.

    Args:
        tokens: of a row.
        size: of the axis.
        chosen: bool ``[n]``, which tokens count; all where None.
    """
    counted = tokens.has_text if chosen is None else tokens.has_text & chosen
    return _depth(tokens.start[counted], tokens.end[counted], size) > 0


def _depth(start: np.ndarray, end: np.ndarray, size: int) -> np.ndarray:
    """How many of the stretches each place lies in: int64 ``[size]``."""
    steps = np.bincount(start, minlength=size + 1) - np.bincount(end, minlength=size + 1)
    return np.cumsum(steps)[:size]


def reached_end(tokens: Tokens, answer: int, axis: Axis) -> bool:
    """Whether tokens have an answer to its end: its end of turn, or the last of a text that has none."""
    own = np.flatnonzero(tokens.answer == answer)
    if not len(own):
        return False
    reached = tokens.end[own].max()
    closed = tokens.start[own[-1]] < 0 and reached >= 0
    return bool(closed or max(reached, axis.base[answer]) >= axis.written[answer])


def same_tokens(source: Tokens, target: Tokens, size: int) -> np.ndarray:
    """The source token that each target token is, int64 ``[m]``; -1 where it is none.

    Text is compared in the smallest stretches that no token of either crosses the border of: a token alone would not
    do where it shares characters with one that differs.
    """
    found = np.full(len(target.ids), -1, dtype=np.int64)
    inner = np.zeros(size, dtype=bool)
    for tokens in (source, target):
        text = tokens.has_text
        inner |= _depth(tokens.start[text] + 1, np.maximum(tokens.end[text], tokens.start[text] + 1), size) > 0
    stretch = np.cumsum(~inner)
    ours, theirs = np.flatnonzero(target.has_text), np.flatnonzero(source.has_text)
    groups = stretch[source.start[theirs]], stretch[target.start[ours]]
    spans = [np.stack([tokens.start[at], tokens.end[at]], 1) for tokens, at in ((source, theirs), (target, ours))]
    _copy(found, ours, theirs, _alike(groups[0], spans[0], groups[1], spans[1]))
    ours, theirs = (np.flatnonzero(~one.has_text & (one.answer >= 0)) for one in (target, source))
    ids = source.ids[theirs, None], target.ids[ours, None]
    _copy(found, ours, theirs, _alike(source.gap[theirs], ids[0], target.gap[ours], ids[1]))
    return found


def _copy(found: np.ndarray, ours: np.ndarray, theirs: np.ndarray, partner: np.ndarray) -> None:
    alike = partner >= 0
    found[ours[alike]] = theirs[partner[alike]]


def _alike(source_group: np.ndarray, source: np.ndarray, target_group: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Partners in groups that are equal as a whole: int64 ``[m]``, -1 elsewhere; group numbers ascend, ``[., k]``."""
    if not len(source_group) or not len(target_group):
        return np.full(len(target_group), -1, dtype=np.int64)
    low, high = (np.searchsorted(source_group, target_group, side) for side in ("left", "right"))
    first, stop = (np.searchsorted(target_group, target_group, side) for side in ("left", "right"))
    partner = np.minimum(low + np.arange(len(target_group)) - first, len(source_group) - 1)
    differs = (high - low != stop - first) | (source[partner] != target).any(axis=1)
    wrong = sums_before(differs)
    return np.where(wrong[stop] == wrong[first], partner, -1)


def unsafe_tokens(offsets: Sequence[Sequence[int]], spans: Sequence[Sequence[int]]) -> np.ndarray:
    """Which response tokens hold a character of a marked span.

    Args:
        offsets: ``[N, 3]``: message index, start, end of each response token; -1 where it has no text.
        spans: ``[S, 3]``: message index, start, end of each marked span.

    Returns:
        bool ``[N]``.
    """
    message, start, end = np.asarray(offsets, dtype=np.int64).reshape(-1, 3).T
    unsafe = np.zeros(len(message), dtype=bool)
    for span_message, span_start, span_end in spans:
        unsafe |= (message == span_message) & (start < span_end) & (end > span_start) & (start >= 0)
    return unsafe
