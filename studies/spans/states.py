"""A hidden chain of any number of states along each row, and EM for its probabilities: what trials of evidence need.

``selection/chain.py`` has two states and works in log-odds. Here a state is a column, and a probability that is 0 at
first stays 0, so that the first guess also says which steps there are: a row-level state is a block that is never
left. Everything is float64.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True)
class States:
    """The chain.

    Attributes:
        first: float64 ``[K]``: probability of each state at a row's first token.
        steps: float64 ``[K, K]``: probability of each state after each state.
    """

    first: np.ndarray
    steps: np.ndarray


@dataclass(frozen=True, slots=True)
class Expected:
    """What is expected of the hidden states, given all that was observed.

    Attributes:
        states: float64 ``[N, K]``: probability of each state at each token.
        first: float64 ``[K]``: rows that begin in each state.
        steps: float64 ``[K, K]``: steps from each state to each state.
        log_likelihood: of all rows, in nats.
    """

    states: np.ndarray
    first: np.ndarray
    steps: np.ndarray
    log_likelihood: float


def expected(log_emission: np.ndarray, lengths: np.ndarray, chain: States) -> Expected:
    """The forward-backward algorithm, all rows side by side, each padded with tokens that say nothing.

    Args:
        log_emission: float64 ``[N, K]``, rows one after the other: log-likelihood of each token in each state.
        lengths: int ``[R]``, tokens of each row, 1 or more.
        chain: the states.
    """
    real = np.arange(lengths.max()) < lengths[:, None]  # (R, T)
    padded = np.zeros((*real.shape, log_emission.shape[1]))
    padded[real] = log_emission
    largest = padded.max(axis=2, keepdims=True)
    emission = np.exp(padded - largest)
    before, after = np.empty_like(emission), np.ones_like(emission)
    scale = np.empty(real.shape)
    for t in range(real.shape[1]):
        joint = emission[:, t] * (chain.first if t == 0 else before[:, t - 1] @ chain.steps)
        scale[:, t] = joint.sum(axis=1)
        before[:, t] = joint / scale[:, t, None]
    emission /= scale[:, :, None]
    for t in range(real.shape[1] - 2, -1, -1):
        after[:, t] = (emission[:, t + 1] * after[:, t + 1]) @ chain.steps.T
    states = before * after
    inside = real[:, 1:, None]
    steps = np.einsum("rti,rtj->ij", before[:, :-1] * inside, (emission * after)[:, 1:] * inside) * chain.steps
    log_likelihood = float(np.log(scale).sum() + largest.sum())
    return Expected(states[real], states[:, 0].sum(axis=0), steps, log_likelihood)


def learn_states(
    log_emission: np.ndarray, lengths: np.ndarray, start: States, *, iterations: int = 200, tolerance: float = 1e-6
) -> tuple[States, Expected]:
    """Baum-Welch for the probabilities of the chain, the emissions being fixed.

    Args:
        log_emission: float64 ``[N, K]``.
        lengths: int ``[R]``, 1 or more.
        start: where the search begins; what is 0 there stays 0.
        iterations: at most this many.
        tolerance: stop when a step raises the log-likelihood by less than this, in nats a token.
    """
    chain, last = start, -np.inf
    for _ in range(iterations):
        found = expected(log_emission, lengths, chain)
        if found.log_likelihood - last < tolerance * len(log_emission):
            break
        last = found.log_likelihood
        left = found.steps.sum(axis=1, keepdims=True)  # 0 where EM has given a state up: it then stays as it was
        steps = np.where(left > 0, found.steps / np.where(left > 0, left, 1), chain.steps)
        chain = States(found.first / found.first.sum(), steps)
    return chain, expected(log_emission, lengths, chain)
