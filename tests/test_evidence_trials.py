"""What trials of evidence stand on: a chain of any number of states, against all paths; words; each candidate."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest
from studies.spans.candidates import table, words_of
from studies.spans.states import States, expected, learn_states
from studies.spans.tried import CANDIDATES, NEED_BASE, Case, Tokens

import tosslm

CHAIN = States(np.array([0.6, 0.4, 0.0]), np.array([[0.7, 0.2, 0.1], [0.0, 0.5, 0.5], [0.3, 0.0, 0.7]]))


def test_expected_states_are_those_of_all_paths() -> None:
    lengths = np.array([4, 1, 3])
    emission = np.random.default_rng(0).normal(size=(8, 3))
    found = expected(emission, lengths, CHAIN)
    states, first, steps, log_likelihood = np.zeros((8, 3)), np.zeros(3), np.zeros((3, 3)), 0.0
    for start, length in zip([0, 4, 5], lengths, strict=True):
        weights = {}
        for path in itertools.product(range(3), repeat=length):
            weight = CHAIN.first[path[0]] * np.prod([CHAIN.steps[a, b] for a, b in itertools.pairwise(path)])
            weights[path] = weight * np.exp(sum(emission[start + t, state] for t, state in enumerate(path)))
        total = sum(weights.values())
        log_likelihood += np.log(total)
        for path, weight in weights.items():
            first[path[0]] += weight / total
            for t, state in enumerate(path):
                states[start + t, state] += weight / total
            for a, b in itertools.pairwise(path):
                steps[a, b] += weight / total
    np.testing.assert_allclose(found.states, states, atol=1e-12)
    np.testing.assert_allclose(found.first, first)
    np.testing.assert_allclose(found.steps, steps, atol=1e-12)
    assert found.log_likelihood == pytest.approx(log_likelihood)


def test_two_states_are_the_chain_of_the_posterior() -> None:
    lengths = np.array([5, 2, 9])
    scores = np.random.default_rng(1).normal(size=16) * 30  # a hard case for products of likelihoods
    chain = States(np.array([0.75, 0.25]), np.array([[0.9, 0.1], [0.3, 0.7]]))
    found = expected(np.column_stack([np.zeros(16), scores]), lengths, chain).states
    rows = np.split(scores, np.cumsum(lengths)[:-1])
    odds = np.concatenate(tosslm.unsafe_log_odds(rows, enter=0.1, leave=0.3))
    np.testing.assert_allclose(found[:, 1], 1 / (1 + np.exp(-odds)), atol=1e-12)


def test_learning_never_lowers_the_likelihood_and_keeps_what_cannot_happen() -> None:
    lengths = np.full(30, 12)
    emission = np.random.default_rng(2).normal(size=(360, 3)) * 2
    reached = [
        learn_states(emission, lengths, CHAIN, iterations=n, tolerance=0.0)[1].log_likelihood for n in range(6)
    ]
    assert np.all(np.diff(reached) > 0)
    chain, _ = learn_states(emission, lengths, CHAIN)
    assert (chain.steps[CHAIN.steps == 0] == 0).all()
    assert chain.first[2] == 0
    np.testing.assert_allclose(chain.steps.sum(axis=1), 1)


def test_a_word_is_its_tokens() -> None:
    messages = [{"role": "user", "content": "?"}, {"role": "assistant", "content": "Un idiot, so."}]
    ends = [[1, 0, 2], [1, 2, 5], [1, 5, 8], [1, 8, 9], [1, 9, 12], [1, 12, 13], [-1, -1, -1]]
    row = {"messages": json.dumps(messages), "offsets": ends}  # Un| id|iot|,| so|.|end
    again = {"messages": json.dumps(messages), "offsets": [[1, 3, 5], [1, 5, 8]]}  # id|iot
    assert words_of([row, again]).tolist() == [0, 1, 1, 1, 2, 2, 3, 4, 4]


def _case() -> Case:
    """Rows in which unsafe tokens come in runs, and score two more on average."""
    rng = np.random.default_rng(3)

    def tokens(rows: int, unsafe: np.ndarray) -> Tokens:
        base = rng.normal(size=rows * 20)
        return Tokens(rng.normal(size=rows * 20) + 2 * unsafe, np.full(rows, 20), base + unsafe)

    runs = np.tile(np.repeat([0, 1, 0, 1], 5), 40)
    return Case(tokens(40, runs), tokens(40, runs), tokens(40, 0 * runs), np.arange(800) // 2)


@pytest.mark.parametrize("name", [*CANDIDATES, *NEED_BASE])
def test_every_candidate_finds_unsafe_runs(name: str) -> None:
    case = _case()
    values = (CANDIDATES | NEED_BASE)[name](case)
    unsafe = np.tile(np.repeat([False, True, False, True], 5), 40)
    assert values.shape == (800,)
    assert np.isfinite(values).all()
    # A token's own score ranks an unsafe one higher in 92% of all pairs (two normals, two apart).
    assert (values[unsafe][:, None] > values[~unsafe]).mean() > 0.88


def test_the_table_has_differences_by_hand() -> None:
    curves = {"token score": np.array([[0.5] * 3, [0.2] * 3]), "posterior": np.array([[0.6] * 3, [0.3] * 3])}
    _, token, posterior = table(8, [curves])
    assert token.split()[-6:] == ["+0.000", "[+0.000,", "+0.000]", "-0.100", "[-0.100,", "-0.100]"]
    assert posterior.split()[:4] == ["posterior", "0.600", "0.300", "+0.100"]
