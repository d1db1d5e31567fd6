"""Losses carried to another model's tokens, by share of characters: a row's sum is kept, and nothing is made up."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from test_transfer import Spans, cases, characters
from tosslm.characters import Axis, Tokens, make_axis, place_tokens
from tosslm.mass import carry_mass, said_of


def tokens_of(axis: Axis, spans: Spans, ids: Sequence[int] | None = None, answer: int = 0) -> Tokens:
    ids = range(len(spans)) if ids is None else ids
    return place_tokens(axis, np.full(len(spans), answer), np.array(spans), np.array(ids))


def test_a_token_shares_its_loss_among_its_characters_and_another_adds_up_its_own() -> None:
    """``abcdef``: here as ``abcd`` and ``ef``, there as ``ab``, ``cde`` and ``f``; both end the turn."""
    axis = make_axis({0: "abcdef"})
    source = tokens_of(axis, [(0, 0, 4), (0, 4, 6), (-1, -1, -1)], [7, 8, 9])
    target = tokens_of(axis, [(0, 0, 2), (0, 2, 5), (0, 5, 6), (-1, -1, -1)], [1, 2, 3, 4])
    carried = carry_mass(source, np.array([4.0, 1.0, 0.5]), target, axis.size)
    assert carried.tolist() == [2.0, 2.5, 0.5, 0.5]


def test_an_end_of_turn_that_is_spelt_out_counts_as_one() -> None:
    """A proxy without the base's special token writes it as text of its own: three tokens, one event."""
    axis = make_axis({0: "ok"})
    one, three = [(0, 0, 2), (-1, -1, -1)], [(0, 0, 2), *[(-1, -1, -1)] * 3]
    spelt, special = tokens_of(axis, three, [5, 6, 7, 8]), tokens_of(axis, one, [5, 2])
    assert carry_mass(spelt, np.array([1.0, 0.5, 0.25, 0.25]), special, axis.size).tolist() == [1.0, 1.0]
    assert carry_mass(special, np.array([1.0, 0.75]), spelt, axis.size).tolist() == [1.0, 0.25, 0.25, 0.25]


def test_an_end_of_turn_is_found_where_one_template_trims_the_answer() -> None:
    axis = make_axis({0: "ok \n"})
    source = tokens_of(axis, [(0, 0, 2), (-1, -1, -1)], [5, 2])
    target = tokens_of(axis, [(0, 0, 4), (-1, -1, -1)], [5, 9])
    assert carry_mass(source, np.array([1.0, 0.5]), target, axis.size).tolist() == [1.0, 0.5]


def test_pieces_of_a_character_share_it_and_equal_pieces_keep_their_own() -> None:
    """An emoji as four byte tokens here; there as two, or as the same four."""
    axis = make_axis({0: "😀"})
    four = tokens_of(axis, [(0, 0, 1)] * 4)
    values = np.array([3.0, 2.0, 0.5, 0.5])
    assert carry_mass(four, values, tokens_of(axis, [(0, 0, 1)] * 2), axis.size).tolist() == [3.0, 3.0]
    assert carry_mass(four, values, tokens_of(axis, [(0, 0, 1)] * 4), axis.size).tolist() == values.tolist()


def test_text_that_the_proxy_never_saw_has_no_loss_and_is_told() -> None:
    axis = make_axis({0: "abcd"})
    source, target = tokens_of(axis, [(0, 0, 2)]), tokens_of(axis, [(0, 0, 1), (0, 1, 3), (0, 3, 4), (-1, -1, -1)])
    assert carry_mass(source, np.array([2.0]), target, axis.size).tolist() == [1.0, 1.0, 0.0, 0.0]
    assert said_of(source, target, axis.size).tolist() == [True, True, False, False]


def by_hand(ours: Spans, values: Sequence[float], theirs: Spans) -> list[Fraction]:
    """Shares of characters in exact arithmetic, one character at a time."""
    mass: dict[tuple[int, int], Fraction] = {}
    for span, value in zip(ours, values, strict=True):
        for character in characters(span):
            mass[character] = mass.get(character, Fraction(0)) + Fraction(value) / len(characters(span))
    owners = {character: sum(character in characters(span) for span in theirs) for character in mass}
    return [sum((mass[c] / owners[c] for c in characters(span) if c in mass), Fraction(0)) for span in theirs]


@given(cases(), st.data())
def test_what_is_carried_is_what_exact_shares_give(
    case: tuple[Axis, Tokens, np.ndarray, Tokens, Spans, Spans], data: st.DataObject
) -> None:
    """Where tokens are the same in both, pieces keep their own, so stretches of text are compared as wholes."""
    axis, source, keep, target, ours, theirs = case
    values = data.draw(st.lists(st.floats(0, 50, width=32), min_size=len(keep), max_size=len(keep)))
    carried = carry_mass(source, np.array(values), target, axis.size)
    expected = by_hand(ours, values, theirs)
    for group in joined(ours, theirs):
        assert sum(carried[i] for i in group) == pytest.approx(float(sum(expected[i] for i in group)), abs=1e-9)


def joined(ours: Spans, theirs: Spans) -> list[list[int]]:
    """Indices of ``theirs`` with text that hang together by characters, with whatever of ``ours`` lies between."""
    groups: list[tuple[set[tuple[int, int]], list[int]]] = []
    for i, span in [*((None, span) for span in ours), *enumerate(theirs)]:
        if not (text := characters(span)):
            continue
        near = [group for group in groups if group[0] & text]
        groups = [group for group in groups if not group[0] & text]
        found = [index for group in near for index in group[1]] + ([] if i is None else [i])
        groups.append((set.union(text, *(group[0] for group in near)), found))
    return [group for _, group in groups]


@given(cases(), st.data())
def test_the_sum_of_an_answers_text_is_kept(
    case: tuple[Axis, Tokens, np.ndarray, Tokens, Spans, Spans], data: st.DataObject
) -> None:
    axis, source, keep, target, ours, theirs = case
    values = data.draw(st.lists(st.floats(0, 50, width=32), min_size=len(keep), max_size=len(keep)))
    covered = set().union(*map(characters, theirs))
    kept = sum(
        Fraction(value) * len(characters(span) & covered) / len(characters(span))
        for span, value in zip(ours, values, strict=True)
        if characters(span)
    )
    carried = carry_mass(source, np.array(values), target, axis.size)
    assert carried[target.has_text].sum() == pytest.approx(float(kept), abs=1e-9)
    assert (carried >= 0).all()


@given(cases(), st.data())
def test_the_same_tokens_have_the_same_values_to_the_bit(
    case: tuple[Axis, Tokens, np.ndarray, Tokens, Spans, Spans], data: st.DataObject
) -> None:
    axis, source, keep, *_ = case
    values = np.array(data.draw(st.lists(st.floats(0, 50, width=32), min_size=len(keep), max_size=len(keep))))
    assert carry_mass(source, values, source, axis.size).tolist() == values.tolist()
