"""The hidden chain: posterior log-odds against a sum over all state paths, and what must hold always."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import tosslm
from tosslm.selection.chain import Chain, learn_chain, log_evidence, passes, unsafe_log_odds

probabilities = st.floats(0.001, 0.999)
# Steps that float64 still tells apart after a sum of hundreds of nats.
evidence_rows = st.lists(st.integers(-5000, 5000).map(lambda n: n / 100), min_size=1, max_size=40).map(np.array)


def path_weights(evidence: np.ndarray, enter: float, leave: float) -> tuple[np.ndarray, np.ndarray]:
    """Every state path ``[2**T, T]`` of a row, and its weight: start, transitions, evidence where unsafe."""
    paths = np.array(list(itertools.product((0, 1), repeat=len(evidence))))
    step = np.array([[1 - enter, enter], [leave, 1 - leave]])
    start = np.array([leave, enter]) / (enter + leave)
    weights = start[paths[:, 0]] * np.prod(step[paths[:, :-1], paths[:, 1:]], axis=1) * np.exp(paths @ evidence)
    return paths, weights


def brute_force(evidence: np.ndarray, enter: float, leave: float) -> np.ndarray:
    paths, weights = path_weights(evidence, enter, leave)
    return np.array([np.log(weights[unsafe].sum() / weights[~unsafe].sum()) for unsafe in (paths == 1).T])


def test_log_odds_are_the_sum_over_all_state_paths() -> None:
    rng = np.random.default_rng(0)
    for _ in range(1000):
        evidence = rng.normal(0, 3, rng.integers(1, 13))
        enter, leave = rng.uniform(0.001, 0.999, 2)
        (found,) = tosslm.unsafe_log_odds([evidence], enter=enter, leave=leave)
        assert found.dtype == np.float64
        np.testing.assert_allclose(found, brute_force(evidence, enter, leave), atol=1e-6)


def test_rows_of_unequal_lengths_are_walked_side_by_side_as_each_by_itself() -> None:
    rng = np.random.default_rng(1)
    rows = [rng.normal(size=n).astype(np.float32) for n in (5, 0, 1, 17, 5, 3, 0)]
    together = unsafe_log_odds(rows, enter=0.1, leave=0.3)
    assert [len(row) for row in together] == [len(row) for row in rows]
    for row, found in zip(rows, together, strict=True):
        np.testing.assert_array_equal(found, unsafe_log_odds([row], enter=0.1, leave=0.3)[0])
    assert unsafe_log_odds([], enter=0.1, leave=0.3) == []


def test_beta_and_b_make_evidence_of_scores() -> None:
    row = np.array([0.5, -1.0, 2.0])
    (scaled,) = unsafe_log_odds([row], enter=0.2, leave=0.3, beta=2.0, b=-0.5)
    np.testing.assert_allclose(scaled, brute_force(2 * row - 0.5, 0.2, 0.3), atol=1e-9)


@given(st.lists(evidence_rows, min_size=1, max_size=5), probabilities)
def test_independent_states_rank_tokens_by_their_own_scores(rows: list[np.ndarray], enter: float) -> None:
    odds = np.concatenate(unsafe_log_odds(rows, enter=enter, leave=1 - enter))
    order = np.argsort(-np.concatenate(rows), kind="stable")
    prior = np.log(enter) - np.log1p(-enter)
    np.testing.assert_allclose(odds, np.concatenate(rows) + prior, atol=1e-9)
    assert (np.diff(np.round(odds[order], 6)) <= 0).all()


@given(st.lists(evidence_rows, min_size=2, max_size=5), st.floats(0.1, 10))
def test_a_chain_that_hardly_moves_ranks_rows_by_their_summed_evidence(rows: list[np.ndarray], ratio: float) -> None:
    tiny = 1e-280  # a change of state costs 640 nats; the rows here sum to less than that where it matters
    small = [row / 100 for row in rows]
    odds = unsafe_log_odds(small, enter=tiny * ratio, leave=tiny)
    for row, found in zip(small, odds, strict=True):
        np.testing.assert_allclose(found, row.sum() + np.log(ratio), atol=1e-6)


@given(evidence_rows, probabilities, probabilities)
def test_a_reversed_row_has_the_reversed_posterior(row: np.ndarray, enter: float, leave: float) -> None:
    forwards, backwards = unsafe_log_odds([row, row[::-1]], enter=enter, leave=leave)
    np.testing.assert_allclose(forwards, backwards[::-1], atol=1e-7)


@given(evidence_rows, probabilities, probabilities, st.integers(0, 39))
def test_more_evidence_at_one_token_lowers_no_other_where_neighbours_are_alike(
    row: np.ndarray, enter: float, leave: float, at: int
) -> None:
    if enter + leave > 1:  # states then alternate, and a neighbour's evidence speaks against a token
        enter, leave = enter / 2, leave / 2
    more = row.copy()
    more[at % len(row)] += 1.0
    before, after = unsafe_log_odds([row, more], enter=enter, leave=leave)
    assert (after >= before - 1e-9).all()


@pytest.mark.long
@pytest.mark.slow
def test_nothing_overflows_in_rows_of_a_hundred_thousand_tokens() -> None:
    rng = np.random.default_rng(2)
    with np.errstate(all="raise", under="ignore"):
        for scale in (1.0, 1e4):
            for enter, leave in ((0.03, 0.2), (1e-12, 1e-12), (1 - 1e-12, 1 - 1e-12)):
                (odds,) = unsafe_log_odds([rng.normal(0, scale, 100_000)], enter=enter, leave=leave)
                assert np.isfinite(odds).all()


def test_learning_finds_the_chain_that_made_the_rows() -> None:
    rng = np.random.default_rng(3)
    states = np.zeros((3000, 50), dtype=bool)
    states[:, 0] = rng.random(3000) < 0.03 / 0.23
    for t in range(1, 50):
        chance = np.where(states[:, t - 1], 1 - 0.2, 0.03)
        states[:, t] = rng.random(3000) < chance
    scores = rng.normal(size=states.shape) + 1.5 * states  # their log-likelihood ratio is 1.5 * score - 1.125
    fit = learn_chain(
        (1.5 * scores - 1.125).ravel(), np.full(3000, 50), Chain(0.1, 0.1), iterations=500, tolerance=1e-8
    )
    assert fit.chain.enter == pytest.approx(0.03, rel=0.08)
    assert fit.chain.leave == pytest.approx(0.2, rel=0.08)


@settings(max_examples=30, deadline=None)
@given(st.lists(evidence_rows, min_size=1, max_size=6), probabilities, probabilities)
@example([np.array([7.42]), np.array([0.0, 9.11])], 0.5, 0.5)  # rounding once took a square below zero here
def test_no_step_of_learning_lowers_the_likelihood(rows: list[np.ndarray], enter: float, leave: float) -> None:
    lengths = np.array([len(row) for row in rows])
    fit = learn_chain(np.concatenate(rows), lengths, Chain(enter, leave), iterations=30, tolerance=-1.0)
    assert (np.diff(fit.log_likelihoods) >= -1e-9).all()


def test_the_likelihood_is_the_sum_over_all_state_paths() -> None:
    rng = np.random.default_rng(4)
    rows = [rng.normal(0, 2, n) for n in (1, 6, 9)]
    lengths, evidence, chain = np.array([1, 6, 9]), np.concatenate(rows), Chain(0.2, 0.4)
    expected = sum(np.log(path_weights(row, 0.2, 0.4)[1].sum()) for row in rows)
    filtered, _ = passes(evidence, lengths, chain)
    assert log_evidence(evidence, lengths, chain, filtered) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize(
    ("rows", "enter", "message"),
    [
        ([np.zeros(3), np.array([1.0, np.nan])], 0.1, "row 1: score 1 is nan"),
        ([np.zeros((2, 2))], 0.1, r"row 0 has shape \(2, 2\)"),
        ([np.zeros(3)], 0.0, "enter is 0.0"),
        ([np.zeros(3)], 1.0, "enter is 1.0"),
    ],
)
def test_bad_input_is_refused(rows: list[np.ndarray], enter: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        unsafe_log_odds(rows, enter=enter, leave=0.1)
