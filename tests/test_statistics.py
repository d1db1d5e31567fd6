"""Intervals by bootstrap against plain loops and known distributions."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tosslm.statistics import (
    bounds,
    drawn_counts,
    drawn_means,
    mean_interval,
    paired_difference,
    resampled_interval,
)


def slow_bootstrap(values: np.ndarray, weights: np.ndarray, draws: int) -> tuple[float, float]:
    rng = np.random.default_rng(99)
    seeds, n = values.shape
    means = []
    for _ in range(draws):
        chosen, rows = rng.integers(seeds, size=seeds), rng.integers(n, size=n)
        means.append(np.average(values[chosen][:, rows].mean(axis=0), weights=weights[rows]))
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)


@pytest.mark.parametrize("seeds", [1, 3])
def test_intervals_agree_with_a_plain_loop(seeds: int) -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(size=(seeds, 80)) + rng.normal(size=(seeds, 1))
    weights = rng.integers(1, 30, size=80).astype(float)
    got = mean_interval(values, weights, draws=6000)
    low, high = slow_bootstrap(values, weights, 6000)
    assert got.value == pytest.approx(np.average(values.mean(axis=0), weights=weights))
    assert (got.low, got.high) == pytest.approx((low, high), abs=0.06 * (high - low))
    assert got.n == 80


def test_an_interval_of_many_prompts_is_the_normal_one() -> None:
    values = np.random.default_rng(1).normal(2.0, 3.0, size=4000)
    got = mean_interval(values)
    half = 1.96 * values.std() / math.sqrt(len(values))
    assert (got.low, got.high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.1 * half)


def test_95_of_100_intervals_hold_the_truth() -> None:
    rng = np.random.default_rng(2)
    held = sum(
        interval.low <= 0.3 <= interval.high
        for interval in (mean_interval(rng.random(120) < 0.3, seed=i, draws=500) for i in range(400))
    )
    assert 0.92 <= held / 400 <= 0.98


def test_the_spread_of_seeds_widens_the_interval() -> None:
    prompts = np.random.default_rng(3).random((1, 200)) < 0.5
    agreeing, apart = np.repeat(prompts, 3, axis=0).astype(float), np.zeros((3, 200))
    apart[0], apart[1] = prompts, 1
    narrow, wide = mean_interval(agreeing), mean_interval(apart)
    assert wide.high - wide.low > 2 * (narrow.high - narrow.low)


def test_all_ones_or_zeros_have_the_exact_interval_not_a_width_of_nothing() -> None:
    ones = mean_interval(np.ones(30))
    assert (ones.value, ones.high) == (1.0, 1.0)
    assert ones.low**30 == pytest.approx(0.025)  # 30 of 30 happens so often at the lower end
    zeros = mean_interval(np.zeros((2, 30)))
    assert (zeros.low, zeros.high) == pytest.approx((0.0, 1 - ones.low))


def test_pairing_takes_out_what_both_share() -> None:
    rng = np.random.default_rng(4)
    hard = rng.normal(size=300)
    a, b = hard + 0.2 + 0.1 * rng.normal(size=300), hard + 0.1 * rng.normal(size=300)
    difference = paired_difference(a, b)
    assert difference.low > 0
    assert difference.value == pytest.approx(a.mean() - b.mean())
    alone = mean_interval(a)
    assert difference.high - difference.low < 0.2 * (alone.high - alone.low)
    same = paired_difference(a, a)
    assert (same.value, same.low, same.high) == (0, 0, 0)
    with pytest.raises(ValueError, match="differ"):
        paired_difference(a, b[:-1])


def test_the_same_seed_gives_the_same_interval() -> None:
    values = np.random.default_rng(5).random(50)
    assert mean_interval(values, seed=1) == mean_interval(values, seed=1) != mean_interval(values, seed=2)


@pytest.mark.parametrize("values", [np.array([]), np.array([1.0, np.nan]), np.zeros((2, 2, 2))])
def test_what_has_no_mean_is_refused(values: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"values|value"):
        mean_interval(values)


def test_draws_take_as_many_rows_as_there_are_and_each_as_often_as_any() -> None:
    counts = drawn_counts(7, seed=0, draws=4000)
    assert counts.shape == (4000, 7)
    assert (counts.sum(axis=1) == 7).all()
    assert counts.mean(axis=0) == pytest.approx(np.ones(7), abs=0.06)
    # Of n rows the variance of a count is 1 - 1/n: with replacement, not a permutation.
    assert counts.var(axis=0) == pytest.approx(np.full(7, 6 / 7), abs=0.1)


def test_means_are_those_of_the_draws() -> None:
    """With one seed, every mean is the mean of the rows that the draw of that seed names."""
    values = np.random.default_rng(6).random(9)
    counts = drawn_counts(9, seed=3, draws=50)
    expected = [np.repeat(values, times).mean() for times in counts]
    # One call draws rows first, then the one seed there is: the counts are the same.
    assert drawn_means(values[None], np.ones(9), 3, 50) == pytest.approx(expected)


def test_a_draw_of_rows_without_weight_has_no_mean() -> None:
    found = drawn_means(np.ones((1, 4)), np.array([1.0, 0, 0, 0]), 0, 200)
    # A draw misses the one row that weighs 0.75 ** 4 of the times: 63 of 200, with a standard deviation of 7.
    assert 100 < len(found) < 175
    assert (found == 1).all()


def test_bounds_leave_out_a_fortieth_on_each_side_and_what_has_no_figure() -> None:
    drawn = np.stack([np.arange(41.0), np.append(np.arange(40.0), np.nan)], axis=1)
    low, high = bounds(drawn)
    assert low == pytest.approx([1.0, 0.025 * 39])
    assert high == pytest.approx([39.0, 0.975 * 39])


def test_a_statistic_of_one_seed_has_the_bounds_of_its_draws() -> None:
    values = np.random.default_rng(7).normal(size=(1, 1001))
    got = resampled_interval(values, 12)
    assert got.value == values[0, 0]
    assert (got.low, got.high) == pytest.approx(tuple(np.quantile(values[0, 1:], [0.025, 0.975])))
    assert got.n == 12


def test_a_statistic_of_several_seeds_is_wider_than_one_of_their_mean() -> None:
    rng = np.random.default_rng(0)
    values = np.array([[0.2], [0.5], [0.8]]) + rng.normal(0, 0.01, (3, 1001))
    found = resampled_interval(values, 10)
    assert found.value == pytest.approx(values[:, 0].mean())
    assert found.low < 0.3
    assert found.high > 0.7
