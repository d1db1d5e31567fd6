"""A choice of tokens carried to another tokenisation of the same answers, through their characters; pure NumPy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from tosslm.characters import Axis, Tokens, covered, reached_end, same_tokens
from tosslm.ragged import sums_before

Rule = Literal["any", "most", "all"]
RULES: tuple[Rule, ...] = get_args(Rule)


@dataclass(frozen=True, slots=True)
class Carried:
    """A choice on the target's tokens.

    Attributes:
        keep: bool ``[m]``; False where nothing was chosen.
        chosen: bool ``[m]``, False where the source says nothing of a token: that text was cut off there, or never
            written.
        partner: int64 ``[m]``, the source's token that it is too, whose choice was copied; -1 where it is none.
    """

    keep: np.ndarray
    chosen: np.ndarray
    partner: np.ndarray


@dataclass(frozen=True, slots=True)
class Sides:
    """Characters that are in a token of both tokenisations, and how many of them change sides.

    Attributes:
        characters: all of them.
        dropped_before: those in a dropped token of the source.
        dropped_after: those in a dropped token of the target.
        newly_dropped: dropped after, and not before.
        newly_kept: dropped before, and not after.
    """

    characters: int
    dropped_before: int
    dropped_after: int
    newly_dropped: int
    newly_kept: int


def carry_mask(source: Tokens, keep: np.ndarray, target: Tokens, axis: Axis, rule: Rule = "most") -> Carried:
    """Which target tokens are kept, by which source tokens are.

    A character is dropped where a source token that covers it is. Of a target token's characters those count that
    the source has a token for; the token is dropped where any, most (more than half) or all of them are. Where both
    cut a stretch of text into the same tokens, these have the same choice, one by one; so have tokens without text
    that stand at the same place with the same ids. Any other token without text goes as the source's end of turn of
    its answer does.

    Args:
        source: tokens of a row, ``[n]``.
        keep: bool ``[n]``, their choice.
        target: tokens of the same row by another tokenizer, ``[m]``.
        axis: of both.
        rule: how many characters drop a token.

    Returns:
        The choice on the target's tokens, ``[m]``.
    """
    known = covered(source, axis.size)
    dropped = covered(source, axis.size, ~keep)
    text = target.has_text
    start, end = np.where(text, target.start, 0), np.where(text, target.end, 0)
    total, gone = (sums_before(which)[end] - sums_before(which)[start] for which in (known, dropped))
    falls = {"any": gone > 0, "most": 2 * gone > total, "all": gone == total}[rule]
    kept, chosen = ~falls, total > 0
    ends = _ends(source, keep, axis)
    for token in np.flatnonzero(~text):
        end_kept = ends.get(int(target.answer[token]))
        kept[token], chosen[token] = bool(end_kept), end_kept is not None
    partner = same_tokens(source, target, axis.size)
    same = partner >= 0
    kept[same], chosen[same] = keep[partner[same]], True
    return Carried(kept & chosen, chosen, partner)


def changed_sides(source: Tokens, keep: np.ndarray, target: Tokens, carried: Carried, size: int) -> Sides:
    """What became of the characters that both tokenisations have a chosen token for.

    Args:
        source: tokens of a row, ``[n]``.
        keep: bool ``[n]``, their choice.
        target: the row's other tokens, ``[m]``.
        carried: their choice.
        size: of the axis.
    """
    both = covered(source, size) & covered(target, size, carried.chosen)
    before = covered(source, size, ~keep) & both
    after = covered(target, size, ~carried.keep & carried.chosen) & both
    counts = (both, before, after, after & ~before, before & ~after)
    return Sides(*(int(which.sum()) for which in counts))


def _ends(source: Tokens, keep: np.ndarray, axis: Axis) -> dict[int, bool]:
    """By answer, whether the source keeps its end: the end of turn, or the last of a text that has none.

    An answer that was cut off before its end is not among them.
    """
    ends = {}
    for answer in np.unique(source.answer[source.answer >= 0]).tolist():
        if reached_end(source, answer, axis):
            ends[answer] = bool(keep[np.flatnonzero(source.answer == answer)[-1]])
    return ends
