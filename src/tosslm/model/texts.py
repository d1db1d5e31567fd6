"""What of rows has to be read: each text once, none of it past its last response token, shared beginnings apart."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np


@dataclass(frozen=True, slots=True)
class Text:
    """What is read for one row, and for all rows that it begins with.

    Attributes:
        input_ids: int32 ``[T]``, up to the last response token.
        response_mask: bool ``[T]``, the response tokens of any of the rows.
        rows: their indices.
    """

    input_ids: np.ndarray
    response_mask: np.ndarray
    rows: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Group:
    """Texts that begin alike.

    Attributes:
        texts: the texts.
        shared: tokens that are read once for all; the token after these is still the same in each, so that no
            prediction at a shared token differs. 0 where each text is read whole.
    """

    texts: tuple[Text, ...]
    shared: int


def distinct_texts(rows: Sequence[Mapping[str, Any]], *, merge: bool = True) -> list[Text]:
    """The texts of rows, in the order of their tokens.

    Args:
        rows: as for ``response_losses``. One without a response token is in no text.
        merge: a row that another one begins with, as a conversation's earlier turns, is read with that one.
    """
    cut = []
    for i, row in enumerate(rows):
        mask = np.array(row["response_mask"], dtype=bool)
        mask[:1] = False  # nothing predicts the first token
        if mask.any():
            end = int(np.flatnonzero(mask)[-1]) + 1
            ids = np.asarray(row["input_ids"], dtype=np.int32)[:end]
            # Bytes of big-endian numbers sort as the numbers do.
            cut.append((ids.astype(">u4").tobytes(), i, ids, mask[:end]))
    texts: list[Text] = []
    last = b""
    for key, i, ids, mask in sorted(cut, key=lambda one: one[:2]):
        members: tuple[int, ...] = (i,)
        if merge and texts and key.startswith(last):
            earlier = texts.pop()
            mask[: len(earlier.response_mask)] |= earlier.response_mask
            members = (*earlier.rows, i)
        texts.append(Text(ids, mask, members))
        last = key
    return texts


def beginnings(texts: Sequence[Text], least: int) -> list[Group]:
    """Texts in groups of a shared beginning, such that many tokens are spared.

    Beginnings are nested like brackets: from the innermost outwards, either all texts of one are a group, or what
    its inner groups leave is, whichever spares more tokens.

    Args:
        texts: in the order of their tokens, none the beginning of another.
        least: tokens that a group must spare, for it is a batch by itself.

    Returns:
        Groups with a beginning, then one of all other texts, if any.
    """
    open_brackets = [_Bracket(0)]
    for i, common in enumerate([*_common(texts), 0] if texts else []):
        closed = _Bracket(len(texts[i].input_ids), [i])
        while open_brackets[-1].common > common:
            open_brackets[-1].take(closed)
            closed = open_brackets.pop().grouped(least)
        if open_brackets[-1].common < common:
            open_brackets.append(_Bracket(common))
        open_brackets[-1].take(closed)
    whole = open_brackets[0]
    groups = [Group(tuple(texts[i] for i in members), shared) for members, shared in whole.groups]
    return groups + ([Group(tuple(texts[i] for i in whole.loose), 0)] if whole.loose else [])


@dataclass(frozen=True, slots=True)
class _Bracket:
    """Neighbouring texts and how much they have in common: those in no group yet, and groups with beginnings."""

    common: int
    loose: list[int] = field(default_factory=list)
    groups: list[tuple[list[int], int]] = field(default_factory=list)

    def take(self, inner: _Bracket) -> None:
        self.loose.extend(inner.loose)
        self.groups.extend(inner.groups)

    def grouped(self, least: int) -> _Bracket:
        shared = self.common - 1
        everyone = sorted([*self.loose, *(i for members, _ in self.groups for i in members)])
        spared = sum((len(members) - 1) * length for members, length in self.groups)
        left = (len(self.loose) - 1) * shared
        all_as_one = (len(everyone) - 1) * shared
        if all_as_one >= max(least, 1) and all_as_one >= spared + (left if left >= max(least, 1) else 0):
            return _Bracket(self.common, [], [(everyone, shared)])
        if left >= max(least, 1):
            return _Bracket(self.common, [], [*self.groups, (self.loose, shared)])
        return self


def _common(texts: Sequence[Text]) -> Iterator[int]:
    """Tokens that each text but the last begins with in common with the next."""
    for one, other in pairwise(texts):
        n = min(len(one.input_ids), len(other.input_ids))
        differ = np.flatnonzero(one.input_ids[:n] != other.input_ids[:n])
        yield int(differ[0]) if len(differ) else n
