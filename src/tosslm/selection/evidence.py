"""What a token's score says of the token, learnt from rows whose kind is known.

A score is the log-likelihood ratio of two language models, noisy and on no scale of its own. Held-out rows of the
utility and the harmful set, which the references never trained on, tell what scores useful and unsafe tokens get:

1. ``f_useful`` is the histogram of the held-out utility rows' scores: every token there is useful.
2. ``f_unsafe`` is found by EM on the held-out harmful rows, with a hidden chain of its own (``chain.py``), since a
   harmful row is not unsafe at every token. After each step ``r = log f_unsafe - log f_useful`` is made
   non-decreasing: the maximum-likelihood estimate under that order is an isotonic regression of the ratio of the two
   histograms, weighted by ``f_useful`` (R. Dykstra, S. Kochar, T. Robertson, Inference for likelihood ratio ordering
   in the two-sample problem, JASA 90, 1995).

Everything here is a pure function of arrays.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tosslm.selection.chain import Chain, improve_chain, log_evidence, passes

LEVELS = (0.005, 0.01, 0.025, *(n / 20 for n in range(1, 20)), 0.975, 0.99, 0.995)
"""Quantiles that part the bins: twentieths, and finer at the ends, since selection drops from the upper one."""
START = Chain(0.05, 0.5)
ITERATIONS = 500
TOLERANCE = 1e-7
"""EM ends when a step raises the log-likelihood by less than this, in nats a token."""
_PSEUDO = 0.5  # tokens added to each bin, so that a bin that one of the sets lacks has a finite ratio


@dataclass(frozen=True, slots=True)
class Evidence:
    """The log-likelihood ratio of unsafe to useful as a function of the score.

    Attributes:
        knots: float64 ``[K]``, increasing: mean score of each bin.
        ratios: float64 ``[K]``, non-decreasing, in nats: ``log f_unsafe - log f_useful`` of each bin.
        useful: float64 ``[K]``: share of useful tokens in each bin.
        unsafe: float64 ``[K]``: share of unsafe tokens in each bin.
        chain: of the harmful rows; not that of the custom set.
        log_likelihoods: of the held-out harmful rows after each step of EM, in nats a token, over that of all their
            tokens being useful.
        gain: the last of them, in nats over all tokens.
    """

    knots: np.ndarray
    ratios: np.ndarray
    useful: np.ndarray
    unsafe: np.ndarray
    chain: Chain
    log_likelihoods: list[float]
    gain: float

    def __call__(self, scores: np.ndarray) -> np.ndarray:
        """Evidence of scores ``[N]``, float64 ``[N]``, in nats: linear between knots, level beyond the outer ones."""
        return np.interp(np.asarray(scores, dtype=np.float64), self.knots, self.ratios)


def window_means(values: np.ndarray, lengths: np.ndarray, width: int) -> np.ndarray:
    """Mean of the values at most ``width // 2`` tokens away in the same row, fewer at its ends.

    Args:
        values: floats ``[N]``, rows one after the other.
        lengths: int ``[R]``, tokens of each row.
        width: tokens in a window, 1 or more.

    Returns:
        float64 ``[N]``.
    """
    if width < 1:
        raise ValueError(f"width is {width}; a window has 1 token or more: choose an odd number such as 5")
    lengths = np.asarray(lengths, dtype=np.int64)
    ends = np.repeat(np.cumsum(lengths), lengths)
    starts = ends - np.repeat(lengths, lengths)
    at = np.arange(len(values))
    first, last = np.maximum(at - width // 2, starts), np.minimum(at + width // 2 + 1, ends)
    total = np.zeros(len(values))
    for shift in range(-(width // 2), width // 2 + 1):
        inside = (at + shift >= first) & (at + shift < last)
        total[inside] += values[at[inside] + shift]
    return total / (last - first)


def learn_evidence(useful_scores: np.ndarray, harmful_scores: np.ndarray, harmful_lengths: np.ndarray) -> Evidence:
    """Learn evidence from held-out rows.

    Args:
        useful_scores: floats ``[N]``: scores of all response tokens of held-out utility rows.
        harmful_scores: floats ``[M]``: those of held-out harmful rows, rows one after the other.
        harmful_lengths: int ``[R]``: tokens of each harmful row.

    Returns:
        The evidence.

    Raises:
        ValueError: one of the sets has no token, or a score is not finite.
    """
    useful_scores = finite_scores(useful_scores, "useful_scores")
    harmful_scores = finite_scores(harmful_scores, "harmful_scores")
    pooled = np.concatenate([useful_scores, harmful_scores])
    edges = bin_edges(pooled)
    of_useful, of_harmful = (np.searchsorted(edges, s, side="right") for s in (useful_scores, harmful_scores))
    size = len(edges) + 1
    counts = np.bincount(np.concatenate([of_useful, of_harmful]), minlength=size)
    sums = np.bincount(np.concatenate([of_useful, of_harmful]), weights=pooled, minlength=size)
    useful = shares(np.bincount(of_useful, minlength=size))
    lengths = np.asarray(harmful_lengths, dtype=np.int64)
    ratio = ordered_ratio(useful, np.bincount(of_harmful, minlength=size))
    chain, curve = START, []
    for _ in range(ITERATIONS):
        evidence = np.log(ratio)[of_harmful]
        filtered, ahead = passes(evidence, lengths, chain)
        curve.append(log_evidence(evidence, lengths, chain, filtered) / len(evidence))
        if len(curve) > 1 and curve[-1] - curve[-2] < TOLERANCE:
            break
        unsafe = 1 / (1 + np.exp(-np.clip(filtered + ahead, -500, 500)))
        ratio = ordered_ratio(useful, np.bincount(of_harmful, weights=unsafe, minlength=size))
        chain = improve_chain(chain, evidence, lengths, filtered, ahead)
    gain = curve[-1] * len(harmful_scores)
    return Evidence(sums / np.maximum(counts, 1), np.log(ratio), useful, useful * ratio, chain, curve, gain)


def bin_edges(scores: np.ndarray) -> np.ndarray:
    """Edges between bins, from all held-out scores ``[N]``, whichever set they are of."""
    return np.unique(np.quantile(scores, LEVELS))


def ordered_ratio(useful: np.ndarray, unsafe_counts: np.ndarray) -> np.ndarray:
    """``f_unsafe / f_useful`` of each bin, non-decreasing; ``f_unsafe`` sums to 1."""
    from sklearn.isotonic import isotonic_regression  # a second, which those who only print a kind's name do not need

    return isotonic_regression(shares(unsafe_counts) / useful, sample_weight=useful)


def shares(counts: np.ndarray) -> np.ndarray:
    """Share of each bin, none of them 0."""
    return (counts + _PSEUDO) / (counts + _PSEUDO).sum()


def finite_scores(scores: np.ndarray, name: str) -> np.ndarray:
    """Scores in float64; refuses none at all, and one that is no number."""
    scores = np.asarray(scores, dtype=np.float64)
    if not len(scores):
        raise ValueError(f"{name} is empty; evidence is learnt from held-out rows: raise references.holdout")
    if not np.isfinite(scores).all():
        raise ValueError(f"{name}[{int(np.argmin(np.isfinite(scores)))}] is not finite")
    return scores
