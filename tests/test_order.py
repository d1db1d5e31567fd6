"""Places among very many scores, found by counting: each against a sort of all of them."""

from collections.abc import Callable, Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tosslm.ragged import split_rows
from tosslm.selection.cut import find_cut
from tosslm.selection.order import (
    arrivals,
    cuts_at,
    dropped_by_group,
    nth_highest,
    quantiles,
    quantiles_of_groups,
    ranks_of_some,
)

# Few values make many ties; the odd ones are where an order of bit patterns would go wrong.
values = st.sampled_from([0.0, -0.0, 1.0, -1.0, 1e-45, -1e-45, 3e38, 1.0000001, -7.5])
scores = st.lists(values, min_size=1, max_size=40).map(lambda some: np.array(some, dtype=np.float32))


def split(array: np.ndarray, size: int = 3) -> list[np.ndarray]:
    return split_rows(array, np.diff([*range(0, len(array), size), len(array)]))


def in_parts(array: np.ndarray, other: np.ndarray) -> Callable[[], Iterator[tuple[np.ndarray, np.ndarray]]]:
    return lambda: zip(split(array), split(other), strict=True)


def alone(array: np.ndarray) -> Callable[[], Iterator[np.ndarray]]:
    return lambda: iter(split(array))


def descending(array: np.ndarray) -> list[int]:
    return sorted(range(len(array)), key=lambda i: -float(array[i]))


@given(st.lists(st.integers(0, 2**40 - 1), min_size=1, max_size=30))
def test_the_nth_highest_key_and_how_many_are_above_it(some: list[int]) -> None:
    found, above = nth_highest(alone(np.array(some, dtype=np.uint64)), range(len(some)), bits=40)
    assert found.tolist() == sorted(some, reverse=True)
    assert above.tolist() == [sum(other > own for other in some) for own in sorted(some, reverse=True)]


@given(scores, st.lists(st.floats(0, 1), min_size=1, max_size=4))
def test_quantiles_are_those_of_numpy(array: np.ndarray, shares: list[float]) -> None:
    expected = np.quantile(array.astype(np.float64), shares)
    np.testing.assert_allclose(quantiles(alone(array), len(array), shares), expected, rtol=1e-6, atol=1e-40)


@given(scores)
def test_quantiles_of_groups_that_come_mixed(array: np.ndarray) -> None:
    group = (np.arange(len(array)) % 3).astype(np.uint8)
    counts = np.bincount(group).tolist()
    found = quantiles_of_groups(in_parts(array, group), counts, [0.0, 0.5, 0.9])
    expected = [np.quantile(array[group == one].astype(np.float64), [0.0, 0.5, 0.9]) for one in range(len(counts))]
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-40)


@given(scores)
def test_cuts_at_counts_are_those_of_fractions(array: np.ndarray) -> None:
    fractions = [i / (len(array) + 0.5) for i in range(len(array) + 1)]
    counts = [int(fraction * len(array)) for fraction in fractions]
    assert cuts_at(alone(array), len(array), counts) == [find_cut(alone(array), fraction) for fraction in fractions]


@given(scores)
def test_what_each_group_loses_at_each_cut(array: np.ndarray) -> None:
    group = np.arange(len(array)) % 2
    counts = list(range(len(array) + 1))
    found = dropped_by_group(in_parts(array, group), 2, cuts_at(alone(array), len(array), counts))
    order = descending(array)
    assert found.tolist() == [[sum(group[i] == one for i in order[:count]) for one in (0, 1)] for count in counts]


@given(scores, st.data())
def test_ranks_of_some_are_their_places_among_all(array: np.ndarray, data: st.DataObject) -> None:
    meant = np.array(data.draw(st.lists(st.booleans(), min_size=len(array), max_size=len(array))))
    place = {token: rank for rank, token in enumerate(descending(array))}
    expected = [place[token] for token in np.flatnonzero(meant).tolist()]
    assert ranks_of_some(in_parts(array, meant)).tolist() == expected


@pytest.mark.parametrize("group", [[], [5], [2, 2, 0, 2, 0]])
def test_arrivals_count_those_of_the_same_group_before(group: list[int]) -> None:
    assert arrivals(np.array(group, dtype=np.int64)).tolist() == [group[:i].count(one) for i, one in enumerate(group)]
