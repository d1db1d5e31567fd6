"""How often a plan times each kind of work: by a clock that only the work moves."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tosslm.planning.turns import MOST_TURNS, Turns


class Clock:
    """Stands still but while work is done."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def work(self, seconds: float) -> Callable[[], None]:
        def work() -> None:
            self.now += seconds

        return work


def rounds_of(budget: float, costs: list[tuple[float, ...]]) -> tuple[list[int], float]:
    """How often each unit is done, the first time included, and the seconds of all."""
    clock = Clock()
    turns = Turns(budget, len(costs), clock)
    counts = []
    for works in costs:
        timed = turns.of([clock.work(seconds) for seconds in works])
        assert all(turn == pytest.approx(list(works)) for turn in timed)
        counts.append(1 + len(timed))
    return counts, clock.now


def test_cheap_work_is_timed_nine_times_and_no_longer() -> None:
    assert rounds_of(18, [(1 / 64, 1 / 32)]) == ([1 + MOST_TURNS], 10 * 3 / 64)


def test_dear_work_is_done_once_and_timed_once_whatever_is_left() -> None:
    assert rounds_of(18, [(16, 32), (8,)]) == ([2, 2], 2 * (16 + 32 + 8))


def test_of_a_single_turn_what_disturbed_it_or_the_first_round_is_left_out() -> None:
    clock = Clock()
    seconds = iter([4, 8, 6, 7])
    assert Turns(1, 1, clock).of([lambda: clock.work(next(seconds))()] * 2) == [[4, 7]]


def test_of_several_turns_the_first_round_does_not_count() -> None:
    clock = Clock()
    seconds = iter([1, 4, 4, 3])
    assert Turns(12, 1, clock).of([lambda: clock.work(next(seconds))()]) == [[4], [4]]


def test_a_turn_that_would_not_fit_is_not_begun() -> None:
    # Half of 16 each: of 2.5 s three rounds, then 8.5 are left for the second.
    assert rounds_of(16, [(1, 1.5), (1,)]) == ([3, 8], 7.5 + 8)


def test_the_weightier_has_the_larger_share() -> None:
    clock = Clock()
    turns = Turns(16, 4, clock)
    assert [len(turns.of([clock.work(2)], weight)) for weight in (3, 1)] == [5, 1]  # 12 s, and 4


def test_what_one_leaves_those_after_it_have() -> None:
    assert rounds_of(16, [(4,), (0.5,)])[0] == [2, 10]
    assert rounds_of(16, [(0.5,), (4,)])[0] == [10, 2]  # 5 and 8 s: three rounds of 4 s would take 17 in all
    assert rounds_of(17, [(0.5,), (4,)])[0] == [10, 3]


@given(st.floats(1, 100), st.lists(st.floats(0.01, 20), min_size=1, max_size=9))
def test_all_keep_to_their_seconds_where_two_rounds_of_each_fit_into_an_even_share(
    budget: float, costs: list[float]
) -> None:
    counts, spent = rounds_of(budget, [(cost,) for cost in costs])
    assert min(counts) >= 2
    if 2 * max(costs) <= budget / len(costs):
        assert spent <= budget * (1 + 1e-9)
