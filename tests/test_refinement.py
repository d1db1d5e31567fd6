"""What joins the harmful set in a round of TOSS-Pro: the rows that a walk down the tokens meets first."""

import math
from collections.abc import Collection

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tosslm.selection.joining import rows_to_join


def token_walk(rows: list[list[float]], ids: list[str], excluded: set[str], samples: int) -> list[int]:
    """The method, literally: every token of every row, from the highest score down."""
    tokens = [(-score, row, position) for row, scores in enumerate(rows) for position, score in enumerate(scores)]
    joined: list[int] = []
    for _, row, _ in sorted(tokens):
        if len(joined) == samples:
            break
        if ids[row] not in excluded and ids[row] not in [ids[other] for other in joined]:
            joined.append(row)
    return joined


def best(rows: list[list[float]]) -> np.ndarray:
    return np.array([max(row, default=-math.inf) for row in rows], dtype=np.float32)


def test_the_highest_rows_join_in_the_order_met() -> None:
    rows = [[0.5, 1.0], [9.0, -1.0], [2.0, 8.0], [0.0]]
    assert rows_to_join(best(rows), ["a", "b", "c", "d"], set(), 2) == [1, 2]


def test_of_equal_rows_the_earlier_is_met_first() -> None:
    assert rows_to_join(np.array([1, 2, 2], dtype=np.float32), ["a", "b", "c"], set(), 2) == [1, 2]
    assert rows_to_join(np.array([-0.0, 0.0], dtype=np.float32), ["a", "b"], set(), 2) == [0, 1]


def test_a_copy_does_not_join_again() -> None:
    assert rows_to_join(np.array([3, 3, 2], dtype=np.float32), ["a", "a", "b"], set(), 2) == [0, 2]


@pytest.mark.parametrize("excluded", [{"a"}, frozenset("a"), ["a"], {"a": 1}.keys()])
def test_rows_of_the_harmful_set_do_not_join(excluded: Collection[str]) -> None:
    assert rows_to_join(np.array([3, 2, 1], dtype=np.float32), ["a", "b", "c"], excluded, 2) == [1, 2]


def test_fewer_when_none_are_left() -> None:
    assert rows_to_join(best([[1.0], [], [2.0]]), ["a", "b", "c"], {"a"}, 5) == [2]
    assert rows_to_join(best([]), [], set(), 5) == []


score = st.sampled_from([-1.0, -0.0, 0.0, 1.0, 2.0]) | st.floats(width=32, allow_nan=False, allow_infinity=False)


@given(
    st.lists(st.tuples(st.lists(score, max_size=4), st.sampled_from("abcdefghij")), max_size=20),
    st.sets(st.sampled_from("abcdefghij"), max_size=3),
    st.integers(0, 8),
)
def test_equals_the_walk_over_all_tokens(
    rows_and_ids: list[tuple[list[float], str]], excluded: set[str], samples: int
) -> None:
    rows, ids = [row for row, _ in rows_and_ids], [row_id for _, row_id in rows_and_ids]
    before = set(excluded)
    assert rows_to_join(best(rows), ids, excluded, samples) == token_walk(rows, ids, excluded, samples)
    assert excluded == before


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_score_that_cannot_be_ranked_is_refused_with_its_row(bad: float) -> None:
    scores = np.array([1.0, -math.inf, bad, math.nan], dtype=np.float32)
    with pytest.raises(ValueError, match=f"row 2 has a best score of {bad}"):
        rows_to_join(scores, ["a", "b", "c", "d"], set(), 1)


def test_one_id_a_row_is_required() -> None:
    with pytest.raises(ValueError, match=r"shape \(2,\), but there are 1 content_ids"):
        rows_to_join(np.zeros(2, dtype=np.float32), ["a"], set(), 1)


def test_a_negative_number_of_rows_is_refused() -> None:
    with pytest.raises(ValueError, match="samples is -1"):
        rows_to_join(np.zeros(1, dtype=np.float32), ["a"], set(), -1)
