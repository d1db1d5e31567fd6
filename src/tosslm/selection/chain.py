"""A hidden two-state chain along each row: from the evidence of single tokens to that of tokens in their row.

Each token is useful or unsafe. Between two tokens of a row a useful one is followed by an unsafe one with probability
``enter``, an unsafe one by a useful one with probability ``leave``; the first token's state is drawn from the chain's
stationary distribution. Of each token only its evidence is known, the log-likelihood ratio
``r = log f_unsafe - log f_useful`` of what was observed there. The forward-backward algorithm gives the posterior
log-odds of *unsafe* for each token given its whole row, and Baum-Welch the two probabilities (L. R. Rabiner, A
tutorial on hidden Markov models, Proceedings of the IEEE 77, 1989, sections III.A and III.C; here in log-odds).

Everything here is pure NumPy, in float64, and vectorised over rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

_ROWS = 8192  # rows walked side by side: one step's numbers stay in a core's cache
_SUMMED = 1 << 14  # tokens of an expectation computed at a time
BOUNDS = (1e-6, 1 - 1e-6)
"""Learnt probabilities stay inside."""


@dataclass(frozen=True, slots=True)
class Chain:
    """The chain's two probabilities, both in (0, 1).

    Args:
        enter: of going from useful to unsafe between two tokens.
        leave: of going from unsafe to useful.

    Raises:
        ValueError: one is not in (0, 1).
    """

    enter: float
    leave: float

    def __post_init__(self) -> None:  # noqa: D105
        for name in ("enter", "leave"):
            value = getattr(self, name)
            if not 0 < value < 1:
                raise ValueError(
                    f"{name} is {value}; it is the probability of a change of state between two tokens: choose a "
                    "value above 0 and below 1, such as 0.05"
                )

    @property
    def unsafe_share(self) -> float:
        """Share of unsafe tokens in the long run."""
        return self.enter / (self.enter + self.leave)


def unsafe_log_odds(
    scores: Sequence[np.ndarray], *, enter: float, leave: float, beta: float = 1.0, b: float = 0.0
) -> list[np.ndarray]:
    """Posterior log-odds that a token is unsafe, given all scores of its row.

    With ``enter + leave = 1`` states are independent, and tokens are ranked by their own scores. As both go to 0 at a
    fixed ratio, all tokens of a row get the row's summed evidence.

    Args:
        scores: one float array ``[n]`` a row, high meaning risky.
        enter: probability of going from useful to unsafe between two tokens, in (0, 1).
        leave: probability of going from unsafe to useful, in (0, 1).
        beta: evidence is ``beta * score + b``, the log-likelihood ratio of unsafe to useful.
        b: see ``beta``.

    Returns:
        One float64 array ``[n]`` a row, in nats.

    Raises:
        ValueError: a score is not finite or a row not one-dimensional (the message has the row's index), or a
            probability is not in (0, 1).

    Examples:
        >>> odds = unsafe_log_odds([np.array([0.0, 3.0, 0.0, -2.0])], enter=0.1, leave=0.4)
        >>> odds[0].round(2).tolist()
        [-0.02, 1.33, -0.57, -2.58]
    """
    chain = Chain(enter, leave)
    rows = [_row(row, i) for i, row in enumerate(scores)]
    lengths = np.array([len(row) for row in rows], dtype=np.int64)
    evidence = np.concatenate(rows) if rows else np.zeros(0)
    evidence *= beta
    evidence += b
    filtered, ahead = passes(evidence, lengths, chain)
    filtered += ahead
    ends = np.cumsum(lengths).tolist()
    return [filtered[start:end] for start, end in zip([0, *ends], ends, strict=False)]


def passes(evidence: np.ndarray, lengths: np.ndarray, chain: Chain) -> tuple[np.ndarray, np.ndarray]:
    """The forward and the backward pass; their sum is the posterior log-odds of unsafe.

    Args:
        evidence: float64 ``[N]``, rows one after the other.
        lengths: int ``[R]``, tokens of each row.
        chain: the two probabilities.

    Returns:
        ``filtered``, float64 ``[N]``: log-odds of unsafe given the row up to and with the token; and ``ahead``,
        float64 ``[N]``: log-likelihood ratio of what follows the token, given that it is unsafe or useful.
    """
    filtered, ahead = np.empty(len(evidence)), np.empty(len(evidence))
    start = np.log(chain.enter) - np.log(chain.leave)
    for first, active in _blocks(np.asarray(lengths, dtype=np.int64)):
        odds = np.full(len(first), start)
        for t, n in enumerate(active):
            at = first[:n] + t
            odds = (start if t == 0 else _predict(odds[:n], chain)) + evidence[at]
            filtered[at] = odds
        later = np.zeros(len(first))
        n_after = 0
        for t in range(len(active) - 1, -1, -1):
            if n_after:
                later[:n_after] = _look_ahead(evidence[first[:n_after] + t + 1] + later[:n_after], chain)
            ahead[first[: active[t]] + t] = later[: active[t]]
            n_after = active[t]
    return filtered, ahead


def log_evidence(evidence: np.ndarray, lengths: np.ndarray, chain: Chain, filtered: np.ndarray) -> float:
    """Log-likelihood of all rows under the chain, over that of all tokens being useful.

    Args:
        evidence: float64 ``[N]``.
        lengths: int ``[R]``.
        chain: the two probabilities.
        filtered: float64 ``[N]``, from ``passes``.
    """

    def of_part(first: int, end: int) -> np.ndarray:
        after, before = filtered[first:end], filtered[first:end] - evidence[first:end]
        return (np.logaddexp(0.0, after) - np.logaddexp(0.0, before)).sum()

    return float(_sum_in_parts(of_part, 0, len(evidence)))


def learn_chain(evidence: np.ndarray, lengths: np.ndarray, start: Chain, *, iterations: int, tolerance: float) -> Fit:
    """Baum-Welch for the two probabilities, the evidence of tokens being fixed.

    Args:
        evidence: float64 ``[N]``, rows one after the other.
        lengths: int ``[R]``.
        start: where the search begins.
        iterations: at most this many.
        tolerance: stop when a step raises the log-likelihood by less than this, in nats a token.

    Returns:
        The fit; its log-likelihoods never fall.
    """
    chain, curve = start, []
    for _ in range(iterations):
        filtered, ahead = passes(evidence, lengths, chain)
        curve.append(log_evidence(evidence, lengths, chain, filtered) / max(len(evidence), 1))
        if len(curve) > 1 and curve[-1] - curve[-2] < tolerance:
            break
        chain = improve_chain(chain, evidence, lengths, filtered, ahead)
    return Fit(chain, curve)


@dataclass(frozen=True, slots=True)
class Fit:
    """What ``learn_chain`` found.

    Attributes:
        chain: the two probabilities.
        log_likelihoods: after each iteration, in nats a token, over that of all tokens being useful.
    """

    chain: Chain
    log_likelihoods: list[float]


def improve_chain(
    chain: Chain, evidence: np.ndarray, lengths: np.ndarray, filtered: np.ndarray, ahead: np.ndarray
) -> Chain:
    """One step of Baum-Welch on ``enter`` and ``leave``.

    The stationary start couples the two through ``-log(enter + leave)`` once a row. That term is convex, so its
    tangent is a lower bound, and the bound's maximum raises the likelihood (a minorise-maximise step).
    """
    counts = _transitions(chain, evidence, lengths, filtered, ahead)
    starts = np.cumsum(lengths) - lengths
    first = filtered[starts[lengths > 0]] + ahead[starts[lengths > 0]]
    unsafe_first = _sigmoid(first).sum()
    rate = len(first) / (chain.enter + chain.leave)
    enter = _maximum(counts[0, 1] + unsafe_first, counts[0, 0], rate)
    leave = _maximum(counts[1, 0] + len(first) - unsafe_first, counts[1, 1], rate)
    return Chain(enter, leave)


def _maximum(changes: float, stays: float, rate: float) -> float:
    """The ``p`` in (0, 1) that maximises ``changes * log(p) + stays * log(1 - p) - rate * p``."""
    total = changes + stays + rate
    # ``total**2 - 4 * rate * changes``, in terms that rounding cannot bring below zero.
    square = (changes - rate) ** 2 + stays * (stays + 2 * (changes + rate))
    root = 2 * changes / (total + np.sqrt(square)) if total else 0.5
    return float(np.clip(root, *BOUNDS))


def _transitions(
    chain: Chain, evidence: np.ndarray, lengths: np.ndarray, filtered: np.ndarray, ahead: np.ndarray
) -> np.ndarray:
    """Expected changes ``[from, to]`` between neighbours, 0 useful and 1 unsafe."""
    starts = np.zeros(len(evidence) + 1, dtype=bool)
    starts[np.cumsum(lengths) - lengths] = True
    after = np.flatnonzero(~starts[: len(evidence)])

    def expected(first: int, end: int) -> np.ndarray:
        own = after[first:end]
        unsafe_before, useful_before = _weights(filtered[own - 1])
        unsafe_after, useful_after = _weights(evidence[own] + ahead[own])
        pairs = np.stack(
            [
                useful_before * (1 - chain.enter) * useful_after,
                useful_before * chain.enter * unsafe_after,
                unsafe_before * chain.leave * useful_after,
                unsafe_before * (1 - chain.leave) * unsafe_after,
            ]
        )
        pairs /= pairs.sum(axis=0)
        return pairs.sum(axis=1).reshape(2, 2)

    return _sum_in_parts(expected, 0, len(after))


def _sum_in_parts(part: Callable[[int, int], np.ndarray], first: int, end: int) -> np.ndarray:
    """Sums of parts that stay in a core's cache, added as NumPy adds up one long array: halves, at multiples of 8.

    So the sum has the bits of that over the whole, which would take several times the memory.
    """
    n = end - first
    if n <= _SUMMED:
        return part(first, end)
    middle = first + n // 2 - n // 2 % 8
    return _sum_in_parts(part, first, middle) + _sum_in_parts(part, middle, end)


def _blocks(lengths: np.ndarray) -> Iterator[tuple[np.ndarray, list[int]]]:
    """Rows in groups of like length, longest first.

    Yields:
        Index of each row's first token, int ``[B]``; and for each step how many of these rows are that long.
    """
    firsts = np.cumsum(lengths) - lengths
    order = np.argsort(-lengths, kind="stable")
    order = order[: np.count_nonzero(lengths)]
    for begin in range(0, len(order), _ROWS):
        rows = order[begin : begin + _ROWS]
        steps = np.arange(lengths[rows[0]])
        yield firsts[rows], (len(rows) - np.searchsorted(lengths[rows][::-1], steps, side="right")).tolist()


def _predict(odds: np.ndarray, chain: Chain) -> np.ndarray:
    """Log-odds of unsafe one token later."""
    unsafe, useful = _weights(odds)
    return np.log(
        (unsafe * (1 - chain.leave) + useful * chain.enter) / (unsafe * chain.leave + useful * (1 - chain.enter))
    )


def _look_ahead(ratio: np.ndarray, chain: Chain) -> np.ndarray:
    """Log-likelihood ratio of the next token and all after it, seen from the token before them."""
    unsafe, useful = _weights(ratio)
    return np.log(
        (unsafe * (1 - chain.leave) + useful * chain.leave) / (unsafe * chain.enter + useful * (1 - chain.enter))
    )


def _weights(log_odds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Weights of unsafe and useful in the ratio of the odds, the larger one being 1: neither can overflow."""
    smaller, unsafe = np.exp(-np.abs(log_odds)), log_odds > 0
    return np.where(unsafe, 1.0, smaller), np.where(unsafe, smaller, 1.0)


def _sigmoid(log_odds: np.ndarray) -> np.ndarray:
    unsafe, useful = _weights(log_odds)
    return unsafe / (unsafe + useful)


def _row(scores: np.ndarray, index: int) -> np.ndarray:
    row = np.asarray(scores, dtype=np.float64)
    if row.ndim != 1:
        raise ValueError(f"row {index} has shape {row.shape}; one dimension is needed, one score a response token")
    if not np.isfinite(row).all():
        token = int(np.argmin(np.isfinite(row)))
        raise ValueError(
            f"row {index}: score {token} is {row[token]}; only finite scores are evidence: see which reference gives "
            "no finite loss for that token"
        )
    return row
