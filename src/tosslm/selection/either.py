"""Log-odds of unsafe in context, or those that a token's own score stands for, whichever are larger.

A token that is judged by its whole row is missed where nothing around it speaks for harm: the posterior takes most
unsafe sentences whole, and leaves some whole, whose riskiest tokens would have told by themselves. So a token's own
score counts too, on the posterior's scale: it stands for the log-odds that are as rare in useful text, where rare is
told by held-out utility rows, and tokens by their own score are to be ``OWN_SHARE`` as many as by their context. That
is the smaller of two weighted p-values (C. R. Genovese, K. Roeder, L. Wasserman, False discovery control with
p-value weighting, Biometrika 93, 2006), told in log-odds.

Everything here is a pure function of arrays.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

OWN_SHARE = 0.5
"""Useful tokens above a threshold by their own score, of those above it in context."""
_STEPS = 512


@dataclass(frozen=True, slots=True)
class OwnLevels:
    """Which log-odds a token's own score stands for: a step function.

    Attributes:
        scores: float64 ``[K]``, ascending, in nats.
        log_odds: float64 ``[K]``, non-decreasing: of a score from ``scores[k]`` up; below the first, none.
    """

    scores: np.ndarray
    log_odds: np.ndarray

    def __call__(self, scores: np.ndarray) -> np.ndarray:
        """Log-odds that scores ``[N]`` stand for, float64 ``[N]``; minus infinity where they stand for none."""
        steps = np.searchsorted(self.scores, np.asarray(scores, dtype=np.float64), side="right")
        return np.concatenate([[-np.inf], self.log_odds])[steps]


def learn_own_levels(scores: np.ndarray, log_odds: np.ndarray) -> OwnLevels:
    """Learn from held-out useful tokens which log-odds are as rare as a score.

    Above any threshold on the log-odds there are then at most ``OWN_SHARE`` as many of these tokens by their own
    score, rounded up, as in context; but for scores that tie.

    Args:
        scores: floats ``[N]`` of useful tokens, at least one.
        log_odds: floats ``[N]``, of unsafe in context, of the same tokens.

    Examples:
        >>> levels = learn_own_levels(np.array([3.0, 1.0, 2.0, 0.0]), np.array([-2.0, -1.0, 5.0, 4.0]))
        >>> levels(np.array([9.0, 3.0, 2.9, 2.0, 1.0]))
        array([  5.,   5.,  -1.,  -1., -inf])
    """
    scores, log_odds = (np.sort(np.asarray(some, dtype=np.float64)) for some in (scores, log_odds))
    count = len(scores)
    above = np.unique(np.concatenate([[0], np.geomspace(1, count, _STEPS).astype(int) if count > 1 else []]))
    rarer = np.floor(above / OWN_SHARE).astype(int)
    some = above[rarer < count][::-1].astype(int)
    return OwnLevels(scores[count - 1 - some], log_odds[count - 1 - np.floor(some / OWN_SHARE).astype(int)])
