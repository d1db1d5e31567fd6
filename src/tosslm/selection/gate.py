"""Whether held-out rows tell harm from use at all, or no more than chance would: a permutation test of the run's own.

Scores of one row go together, so bounds for independent tokens let chance pass. Rows, not tokens, are what the two
sets are drawn from: where the references tell nothing, it does not matter which of the rows are called harmful. So
the labels of the rows are dealt anew many times, what the scores gain is computed each time, and the gain of the true
labels has to stand out among these (E. J. G. Pitman, Significance tests which may be applied to samples from any
populations, 1937; counted as in B. Phipson, G. Smyth, Permutation p-values should never be zero, 2010,
doi:10.2202/1544-6115.1585).

The gain is that of EM's start (``evidence.py``), before its first step. It takes one pass instead of hundreds, and
finds more: a chain that is free to follow the rows takes what they have in common for harm, whatever their labels.

Sets whose rows differ in length are dealt other numbers of tokens than they have. Sampling alone makes the histograms
of ``H`` harmful and ``U`` useful tokens differ by about ``1 / H + 1 / U``, and the gain is ``H`` times that, which is
in proportion to ``1 / U``. So gains are compared times ``U``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tosslm.selection.chain import log_evidence, passes
from tosslm.selection.evidence import START, bin_edges, finite_scores, ordered_ratio, shares

LEVEL = 0.05
"""References that tell nothing pass as often as this; 1 lets all pass."""
PERMUTATIONS = 199
SEED = 0
LEAST_ROWS = 5
"""Of each set: fewer can be dealt in so few ways that chance alone brings the true one back too often."""
_TOKENS_AT_ONCE = 2_000_000
_ROUNDING = 1e-9  # nats; the same labels dealt again gain the same, to rounding


@dataclass(frozen=True, slots=True)
class Chance:
    """A gain, and what chance alone gives in the same rows.

    Attributes:
        gain: of the true labels, in nats over all held-out harmful tokens, before the first step of EM.
        quantile: the ``1 - LEVEL`` quantile of the gains of labels dealt anew, each times the useful tokens it was
            dealt over the true ones; None where none were dealt.
        p: share of all labels, the true ones among them, that gain as much; 1 where none were dealt.
        permutations: how often labels were dealt anew.
        harmful_rows: held-out rows of the harmful set.
        utility_rows: those of the utility set.
    """

    gain: float
    quantile: float | None
    p: float
    permutations: int
    harmful_rows: int
    utility_rows: int

    @property
    def explains(self) -> bool:
        """Whether chance alone explains the gain: nothing may then be learnt."""
        return self.p > LEVEL


def against_chance(useful: Sequence[np.ndarray], harmful: Sequence[np.ndarray]) -> Chance:
    """Put the gain of held-out rows to the test.

    Args:
        useful: scores of the held-out utility rows, one float array ``[n]`` a row.
        harmful: scores of the held-out harmful rows.

    Returns:
        The gain and the null's; with fewer than ``LEAST_ROWS`` in a set no labels are dealt.

    Raises:
        ValueError: one of the sets has no token, or a score is not finite.
    """
    pooled = np.concatenate(
        [finite_scores(np.concatenate(rows), name) for rows, name in ((harmful, "harmful"), (useful, "useful"))]
    )
    lengths = np.array([len(row) for row in (*harmful, *useful)])
    bins = np.searchsorted(edges := bin_edges(pooled), pooled, side="right")
    labels = np.arange(len(lengths)) < len(harmful)
    enough = min(len(harmful), len(useful)) >= LEAST_ROWS
    rng = np.random.default_rng(SEED)
    dealt = [rng.permutation(labels) for _ in range(PERMUTATIONS if enough else 0)]
    gain, *null = _gains(bins, len(edges) + 1, lengths, np.array([labels, *dealt]))
    p = (1 + np.count_nonzero(np.array(null) >= gain - _ROUNDING)) / (1 + len(null)) if null else 1.0
    quantile = float(np.quantile(null, 1 - LEVEL, method="higher")) if null else None
    return Chance(float(gain), quantile, float(p), len(null), len(harmful), len(useful))


def _gains(bins: np.ndarray, size: int, lengths: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The gain under each of several labels, times its useful tokens over those of the first labels.

    Args:
        bins: int ``[N]``, of each token's score, rows one after the other.
        size: how many bins there are.
        lengths: int ``[R]``.
        labels: bool ``[L, R]``, whether a row is called harmful.

    Returns:
        float64 ``[L]``, in nats.
    """
    row = np.repeat(np.arange(len(lengths)), lengths)
    of_rows = np.bincount(row * size + bins, minlength=len(lengths) * size).reshape(-1, size)
    of_harmful = labels.astype(np.float64) @ of_rows  # (L, bins)
    of_useful = of_rows.sum(axis=0) - of_harmful
    gains: list[float] = []
    at_once = max(1, _TOKENS_AT_ONCE // len(bins))
    for first in range(0, len(labels), at_once):
        some = range(first, min(first + at_once, len(labels)))
        ratios = (np.log(ordered_ratio(shares(of_useful[i]), of_harmful[i])) for i in some)
        evidence = [ratio[bins[labels[i][row]]] for i, ratio in zip(some, ratios, strict=True)]
        tokens = [lengths[labels[i]] for i in some]
        filtered, _ = passes(np.concatenate(evidence), np.concatenate(tokens), START)
        ends = np.cumsum([len(one) for one in evidence])[:-1]
        gains += [
            log_evidence(one, rows, START, after)
            for one, rows, after in zip(evidence, tokens, np.split(filtered, ends), strict=True)
        ]
    useful = of_useful.sum(axis=1)
    return np.array(gains) * useful / useful[0]
