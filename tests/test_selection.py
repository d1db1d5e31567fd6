"""What selection is: the highest scores go, exactly floor(d * N) of them, of equal ones the earlier first."""

import ast
import math
from collections.abc import Callable, Iterable
from fractions import Fraction
from pathlib import Path
from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tosslm.selection import cut as selection
from tosslm.selection.cut import Cut, apply_cut, discard_count, find_cut, select_in_rows, select_tokens

LARGEST = float(np.finfo(np.float32).max)
DENORMAL = float(np.finfo(np.float32).smallest_subnormal)
# Few values make many ties; the odd ones are where an order of bit patterns would go wrong.
ODD = [0.0, -0.0, 1.0, -1.0, DENORMAL, -DENORMAL, 2 * DENORMAL, LARGEST, -LARGEST, 1.0000001]
scores_with_ties = st.lists(st.sampled_from(ODD), max_size=40)
any_scores = st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), max_size=40)
scores_lists = scores_with_ties | any_scores
distinct_scores = st.lists(st.integers(-1000, 1000), max_size=40, unique=True)
fractions = st.sampled_from([0.0, 0.1, 0.5, 0.999]) | st.floats(0, 1, exclude_max=True)
part_sizes = st.sampled_from([1, 3, 7, selection.PART])


def float32(values: Iterable[float]) -> np.ndarray:
    return np.array(list(values), dtype=np.float32)


def sorted_mask(scores: Iterable[float], discard_fraction: float) -> list[bool]:
    """The rule, said with a sort: floats compare as numbers, and the sort is stable, so ties stay in order."""
    values = [float(score) for score in scores]
    dropped = sorted(range(len(values)), key=lambda i: -values[i])[: math.floor(discard_fraction * len(values))]
    return [i not in dropped for i in range(len(values))]


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a handful of scores be many parts, so that the search of large inputs runs on them."""
    monkeypatch.setattr(selection, "PART", 3)


def with_part_size(size: int, call: Callable[[], np.ndarray]) -> np.ndarray:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(selection, "PART", size)
        return call()


# --- select_tokens


def test_highest_scores_are_dropped() -> None:
    keep = select_tokens(float32([0.1, 3.0, -2.0, 1.0]), discard_fraction=0.5)
    assert keep.dtype == bool
    assert keep.tolist() == [True, False, True, False]


def test_a_tenth_is_dropped_by_default() -> None:
    keep = select_tokens(np.arange(20, dtype=np.float32))
    assert np.flatnonzero(~keep).tolist() == [18, 19]


def test_of_equal_scores_the_earlier_is_dropped() -> None:
    assert select_tokens(float32([1, 2, 1, 1]), 0.5).tolist() == [False, False, True, True]


def test_minus_zero_equals_zero() -> None:
    assert select_tokens(float32([-0.0, 0.0]), 0.5).tolist() == [False, True]
    assert select_tokens(float32([0.0, -0.0]), 0.5).tolist() == [False, True]


@given(scores_lists, fractions, part_sizes)
def test_equals_a_plain_sort_whatever_the_part_size(values: list[float], d: float, part: int) -> None:
    keep = with_part_size(part, lambda: select_tokens(float32(values), d))
    assert keep.tolist() == sorted_mask(float32(values), d)


@given(scores_lists, fractions)
def test_exactly_floor_of_the_product_is_dropped(values: list[float], d: float) -> None:
    assert int((~select_tokens(float32(values), d)).sum()) == math.floor(d * len(values))


@given(scores_lists)
def test_nothing_is_dropped_at_zero(values: list[float]) -> None:
    assert select_tokens(float32(values), 0.0).all()


@given(distinct_scores, fractions, st.randoms())
def test_order_of_rows_does_not_matter_when_scores_are_distinct(values: list[int], d: float, random: Random) -> None:
    order = list(range(len(values)))
    random.shuffle(order)
    scores = float32(values)
    assert select_tokens(scores[order], d).tolist() == select_tokens(scores, d)[order].tolist()


@given(scores_with_ties, fractions, st.randoms())
def test_order_of_rows_moves_only_ties_at_the_threshold(values: list[float], d: float, random: Random) -> None:
    order = list(range(len(values)))
    random.shuffle(order)
    scores = float32(values)
    keep, moved = select_tokens(scores, d)[order], select_tokens(scores[order], d)
    differing = scores[order][keep != moved]
    assert (differing == scores[~select_tokens(scores, d)].min(initial=np.inf)).all()


@given(distinct_scores | st.lists(st.integers(-3, 3), max_size=40), fractions)
def test_monotone_transforms_leave_the_mask(values: list[int], d: float) -> None:
    keep = select_tokens(float32(values), d).tolist()
    assert select_tokens(float32(v * 8 - 3 for v in values), d).tolist() == keep
    assert select_tokens(float32(math.atan(v / 100) for v in values), d).tolist() == keep


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), max_size=40), fractions, part_sizes)
def test_float64_is_not_rounded(values: list[float], d: float, part: int) -> None:
    assert with_part_size(part, lambda: select_tokens(np.array(values), d)).tolist() == sorted_mask(values, d)


def test_float64_scores_that_float32_cannot_tell_apart() -> None:
    assert select_tokens(np.array([1.0, 1.0 + 1e-12]), 0.5).tolist() == [True, False]


@pytest.mark.parametrize("dtype", ["<f2", ">f2", "<f4", ">f4", "<f8", ">f8"])
@pytest.mark.usefixtures("small_parts")
def test_widths_and_byte_orders(dtype: str) -> None:
    scores = np.array([0.5, -2, 7, 7, -0.0, 0, 1e-7, -1e-7, 3], dtype=dtype)
    for d in (0.2, 0.4, 0.6, 0.8):
        assert select_tokens(scores, d).tolist() == sorted_mask(scores, d)


@pytest.mark.parametrize("part", [3, selection.PART])
def test_read_only_and_strided_input_is_left_alone(part: int) -> None:
    wide = np.random.default_rng(0).normal(size=(50, 3)).astype(np.float32)
    before = wide.copy()
    wide.flags.writeable = False
    column, backwards = wide[:, 1], wide[::-1, 1]
    assert with_part_size(part, lambda: select_tokens(column, 0.3)).tolist() == sorted_mask(column, 0.3)
    assert with_part_size(part, lambda: select_tokens(backwards, 0.3)).tolist() == sorted_mask(backwards, 0.3)
    np.testing.assert_array_equal(wide, before)


def test_input_of_many_real_parts() -> None:
    scores = np.random.default_rng(0).normal(size=3 * selection.PART + 5).astype(np.float32).round(2)
    expected = np.ones(len(scores), dtype=bool)
    expected[np.argsort(-scores, kind="stable")[: math.floor(0.1 * len(scores))]] = False
    np.testing.assert_array_equal(select_tokens(scores, 0.1), expected)


def test_no_tokens() -> None:
    assert select_tokens(float32([]), 0.1).tolist() == []


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("d", [0.0, 0.5])
@pytest.mark.parametrize("part", [3, selection.PART])
def test_scores_that_are_not_finite_are_refused_with_their_index(bad: float, d: float, part: int) -> None:
    with pytest.raises(ValueError, match=rf"scores\[4\] is {bad}"):
        with_part_size(part, lambda: select_tokens(float32([0, 1, 2, 3, bad, 5, math.nan]), d))


@pytest.mark.parametrize("scores", [np.float32(1), np.zeros((2, 2), np.float32)])
def test_one_dimension_is_required(scores: np.ndarray) -> None:
    with pytest.raises(ValueError, match="one dimension is needed"):
        select_tokens(scores)


@pytest.mark.parametrize("dtype", [np.int64, bool, complex, object])
def test_scores_that_are_no_real_floats_are_refused(dtype: type) -> None:
    with pytest.raises(TypeError, match="float16, float32 or float64 is needed"):
        select_tokens(np.zeros(3, dtype=dtype))


# --- discard_count


@given(st.integers(0, 10**9), fractions)
def test_count_is_the_floor_of_the_float64_product(n: int, d: float) -> None:
    exact = Fraction(d) * n  # differs from the float64 product by its rounding only
    assert abs(discard_count(n, d) - math.floor(exact)) <= (0 if abs(exact - round(exact)) > 1e-6 else 1)
    assert 0 <= discard_count(n, d) < max(n, 1)


def test_count_where_float64_rounds() -> None:
    assert discard_count(10, 0.3) == 3
    assert discard_count(100, 0.29) == 28  # 0.29 * 100 is 28.999999999999996


def test_a_fraction_of_one_is_refused_with_the_reason() -> None:
    with pytest.raises(ValueError, match=r"would drop every token.* choose a value below 1"):
        select_tokens(float32([1, 2]), 1.0)


@pytest.mark.parametrize("d", [-0.1, 1.5, math.nan, math.inf])
def test_other_fractions_outside_are_refused(d: float) -> None:
    for call in (
        lambda: discard_count(10, d),
        lambda: select_tokens(float32([]), d),
        lambda: find_cut(lambda: [], d),
        lambda: select_in_rows([], d),
    ):
        with pytest.raises(ValueError, match="discard_fraction is"):
            call()


def test_a_negative_count_is_refused() -> None:
    with pytest.raises(ValueError, match="n_tokens is -1"):
        discard_count(-1, 0.1)


# --- find_cut and apply_cut: the same in chunks


def masked_in_chunks(chunks: list[np.ndarray], d: float) -> tuple[Cut, list[bool]]:
    cut = find_cut(lambda: iter(chunks), d)
    keep: list[bool] = []
    ties = 0
    for chunk in chunks:
        part, ties = apply_cut(chunk, cut, ties)
        keep += part.tolist()
    return cut, keep


def test_ties_are_dropped_in_the_first_chunks() -> None:
    cut, keep = masked_in_chunks([float32([1, 5]), float32([1]), float32([1, 0])], 0.6)
    assert cut == Cut(tokens=5, discarded=3, threshold=1.0, ties=2)
    assert keep == [False, False, False, True, True]


@given(scores_lists, fractions, st.lists(st.integers(0, 40), max_size=6), part_sizes)
def test_any_chunks_give_the_mask_of_the_whole(values: list[float], d: float, places: list[int], part: int) -> None:
    scores = float32(values)
    chunks = np.split(scores, sorted(min(place, len(scores)) for place in places))  # some are empty
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(selection, "PART", part)
        cut, keep = masked_in_chunks(chunks, d)
    expected = sorted_mask(scores, d)
    dropped = [float(score) for score, kept in zip(scores, expected, strict=True) if not kept]
    assert keep == expected
    assert (cut.tokens, cut.discarded) == (len(scores), len(dropped))
    assert cut.threshold == (min(dropped) if dropped else None)
    assert cut.ties == sum(score == cut.threshold for score in dropped)


def test_no_chunks() -> None:
    assert find_cut(lambda: [], 0.5) == Cut(tokens=0, discarded=0, threshold=None, ties=0)


def test_nothing_dropped_has_no_threshold() -> None:
    cut, keep = masked_in_chunks([float32([1, 2]), float32([3])], 0.1)
    assert cut == Cut(tokens=3, discarded=0, threshold=None, ties=0)
    assert keep == [True, True, True]


def test_scores_are_streamed_twice_and_held_once() -> None:
    alive, most, passes = 0, 0, 0

    class Counted(np.ndarray):
        def __del__(self) -> None:
            nonlocal alive
            alive -= 1

    def chunks() -> Iterable[np.ndarray]:
        nonlocal alive, most, passes
        passes += 1
        for _ in range(20):
            alive += 1
            most = max(most, alive)
            yield np.arange(10, dtype=np.float32).view(Counted)

    find_cut(chunks, 0.5)
    assert passes == 2
    assert most <= 2  # the loop variable still holds one while the next is made


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.usefixtures("small_parts")
def test_chunk_and_index_of_a_score_that_is_not_finite(bad: float) -> None:
    chunks = [float32([1, 2]), float32([]), float32([1, 2, 3, 4, bad])]
    with pytest.raises(ValueError, match=rf"chunk 2: scores\[4\] is {bad}"):
        find_cut(lambda: chunks, 0.5)
    with pytest.raises(ValueError, match=rf"scores\[4\] is {bad}"):
        apply_cut(chunks[2], Cut(7, 3, 2.0, 1), 0)


def test_chunks_must_be_float32_vectors() -> None:
    with pytest.raises(TypeError, match="chunk 1: scores has dtype float64"):
        find_cut(lambda: [float32([1]), np.zeros(2)], 0.5)
    with pytest.raises(ValueError, match=r"chunk 0: scores has shape \(1, 1\)"):
        find_cut(lambda: [np.zeros((1, 1), np.float32)], 0.5)
    with pytest.raises(TypeError, match="float32 is needed"):
        apply_cut(np.zeros(2), Cut(2, 1, 0.0, 1), 0)


def test_a_stream_that_ends_after_one_pass_is_refused() -> None:
    stream = iter([float32([1, 2, 3])])
    with pytest.raises(ValueError, match="changed between two passes"):
        find_cut(lambda: stream, 0.5)


def test_a_stream_that_grows_between_two_passes_is_refused() -> None:
    passes = iter([float32([1, 2, 3, 4]), float32([1, 2, 3, 4, 4])])
    with pytest.raises(ValueError, match="changed between two passes"):
        find_cut(lambda: [next(passes)], 0.25)


# --- select_in_rows


@given(st.lists(scores_lists, max_size=5), fractions)
def test_rows_are_masked_one_by_one(rows: list[list[float]], d: float) -> None:
    masks = select_in_rows([float32(row) for row in rows], d)
    assert [mask.tolist() for mask in masks] == [sorted_mask(float32(row), d) for row in rows]


def test_a_row_that_cannot_be_ranked_is_named() -> None:
    with pytest.raises(ValueError, match=r"row 1: scores\[0\] is nan"):
        select_in_rows([float32([1]), float32([math.nan])], 0.1)
    with pytest.raises(TypeError, match="row 0: scores has dtype int64"):
        select_in_rows([np.arange(3)], 0.1)


# --- the module


def test_it_imports_numpy_and_the_standard_library_alone() -> None:
    tree = ast.parse(Path(selection.__file__).read_text(encoding="utf-8"))
    modules = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    modules |= {"." * node.level + (node.module or "") for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert modules == {"__future__", "collections.abc", "dataclasses", "math", "numpy"}
