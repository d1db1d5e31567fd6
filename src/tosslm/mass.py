"""Values of tokens carried to another tokenisation of the same answers, by share of characters; pure NumPy."""

from __future__ import annotations

from collections import defaultdict

import numpy as np

from tosslm.characters import Tokens, same_tokens

Group = tuple[int, int]
_END = -1


def carry_mass(source: Tokens, values: np.ndarray, target: Tokens, size: int) -> np.ndarray:
    """What the target's tokens have of the source's values.

    A token's value lies evenly on its characters; a target token has the sum over its own. Characters that several
    target tokens cover, as the pieces of an emoji do, are shared evenly among them. Where both cut a stretch of text
    into the same tokens, these have the same values, to the bit. Tokens without text have those of the source's
    tokens without text at the same place: one by one where there are as many, else shares of their sum. An end of
    turn, whatever spells it, is such a place.

    So the sum over a row is kept, but for values at characters, or places, that no target token has. A target token
    that no source token has a part of gets 0.

    Args:
        source: tokens of a row, ``[n]``.
        values: float ``[n]``, such as losses in nats.
        target: tokens of the same row by another tokenizer, ``[m]``.
        size: of the axis of both.

    Returns:
        float64 ``[m]``.
    """
    values = values.astype(np.float64)
    carried = np.zeros(len(target.ids))
    partner = same_tokens(source, target, size)
    same = partner >= 0
    carried[same] = values[partner[same]]
    ours, theirs = ~same, ~np.isin(np.arange(len(values)), partner)
    token, at = _characters(source, theirs)
    lengths = np.maximum(source.end - source.start, 1)
    mass = np.bincount(at, weights=values[token] / lengths[token], minlength=size)
    token, at = _characters(target, ours)
    shared = mass / np.maximum(np.bincount(at, minlength=size), 1)
    carried += np.bincount(token, weights=shared[at], minlength=len(carried))
    groups = _groups(source, theirs)
    for place, members in _groups(target, ours).items():
        known = values[groups.get(place, [])]
        carried[members] = known if len(known) == len(members) else known.sum() / len(members)
    return carried


def said_of(source: Tokens, target: Tokens, size: int) -> np.ndarray:
    """Bool ``[m]``: the target's tokens that get any part of a source token's value.

    Args:
        source: tokens of a row, ``[n]``.
        target: tokens of the same row by another tokenizer, ``[m]``.
        size: of the axis of both.
    """
    return carry_mass(source, np.ones(len(source.ids)), target, size) > 0


def _characters(tokens: Tokens, chosen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Token and place on the axis of each character of chosen tokens: both int64 ``[characters]``."""
    token = np.flatnonzero(tokens.has_text & chosen)
    lengths = tokens.end[token] - tokens.start[token]
    first = np.cumsum(lengths) - lengths
    inside = np.arange(lengths.sum()) - np.repeat(first, lengths)
    return np.repeat(token, lengths), np.repeat(tokens.start[token], lengths) + inside


def _groups(tokens: Tokens, chosen: np.ndarray) -> dict[Group, list[int]]:
    """Chosen tokens without text by where they stand: answer, and the text before them, or its end.

    Templates trim answers differently, so how far an answer's text goes says nothing of its end of turn.
    """
    text = tokens.has_text
    last = dict(zip(tokens.answer[text].tolist(), np.flatnonzero(text).tolist(), strict=True))
    found: dict[Group, list[int]] = defaultdict(list)
    for token in np.flatnonzero(~text & chosen & (tokens.answer >= 0)).tolist():
        answer = int(tokens.answer[token])
        found[answer, _END if token > last.get(answer, -1) else int(tokens.gap[token])].append(token)
    return found
