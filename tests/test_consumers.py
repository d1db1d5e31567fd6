"""What `make consumers` calls a fault; the consumers themselves are asked there, in environments of their own."""

from __future__ import annotations

import pytest
from tools.consumers.compared import Row, compared

NONE = -100


def row(ids: list[int], labels: list[int], weights: list[float] | None = None) -> Row:
    own = [float(label != NONE) for label in labels] if weights is None else weights
    return Row(tuple(ids), tuple(labels), tuple(own))


RUN = [row([5, 6, 7, 2], [NONE, NONE, 7, 2]), row([5, 8, 9, 2], [NONE, 8, NONE, 2]), row([5, 1], [NONE, NONE])]


def test_order_does_not_matter_nor_rows_that_train_on_nothing() -> None:
    found = compared(RUN, [RUN[1], RUN[0]])
    assert found.same
    assert (found.rows, found.trained, found.left_out) == (3, 4, 1)


@pytest.mark.parametrize(
    ("theirs", "counted"),
    [
        (row([5, 6, 7, 2], [NONE, 7, 2, NONE]), {"wrong": 2, "lost": 1}),  # shifted already
        (row([5, 6, 7, 2], [NONE, 6, 7, 2]), {"let_in": 1}),
        (row([5, 6, 7, 2], [NONE, NONE, NONE, 2]), {"lost": 1}),
        (row([5, 6, 7], [NONE, NONE, 7]), {"missing": 1, "strange": 1}),  # cut
        (row([5, 6, 7, 2], [NONE, NONE, 7, 2], [0, 0, 0.5, 1]), {"wrong": 1}),
    ],
)
def test_each_fault_is_counted(theirs: Row, counted: dict[str, int]) -> None:
    found = compared(RUN, [theirs, *RUN[1:]])
    assert not found.same
    names = ("missing", "strange", "lost", "let_in", "ends", "wrong")
    assert {name: getattr(found, name) for name in names if getattr(found, name)} == counted


def test_ends_of_turn_are_told_apart_where_a_consumer_sees_to_them() -> None:
    theirs = row([5, 8, 9, 2], [NONE, 8, NONE, 2])
    found = compared([row([5, 8, 9, 2], [NONE, 8, NONE, NONE])], [theirs], ends=frozenset({2}))
    assert (found.ends, found.let_in, found.same) == (1, 0, False)
