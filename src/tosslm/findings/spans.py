"""How well scores find the text that people marked as unsafe."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from tosslm.selection.cut import ordered

EXACT_TOKENS = 200_000
"""Of more marked tokens scores are counted by their upper bits, to within 0.2% of each."""
_UPPER = 18


@dataclass(frozen=True, slots=True)
class Tally:
    """Scores of tokens that are marked or not, equal ones possibly as one.

    Attributes:
        unsafe: bool ``[K]``.
        scores: ``[K]``, in the order of the scores, high meaning unsafe.
        times: int64 ``[K]``, tokens that each stands for.
    """

    unsafe: np.ndarray
    scores: np.ndarray
    times: np.ndarray

    def quality(self) -> dict[str, float]:
        """As ``ranking_quality``."""
        return ranking_quality(self.unsafe, self.scores, self.times)


def tallied(parts: Callable[[], Iterable[tuple[np.ndarray, np.ndarray]]]) -> Tally:
    """Gather streamed tokens, in memory that does not grow with them.

    Args:
        parts: streams which tokens are unsafe, bool ``[n]``, and their scores, float32 ``[n]``.
    """
    if sum(len(scores) for _, scores in parts()) <= EXACT_TOKENS:
        some = list(parts())
        unsafe, scores = (np.concatenate([part[i] for part in some]) for i in (0, 1))
        return Tally(unsafe, scores, np.ones(len(scores), dtype=np.int64))
    counts = np.zeros((2, 1 << _UPPER), dtype=np.int64)
    for unsafe, scores in parts():
        upper = ordered(scores) >> np.uint32(32 - _UPPER)
        for which in (False, True):
            counts[int(which)] += np.bincount(upper[unsafe == which], minlength=counts.shape[1])
    which_bin = np.nonzero(counts)
    return Tally(which_bin[0].astype(bool), which_bin[1], counts[which_bin])


def ranking_quality(unsafe: np.ndarray, scores: np.ndarray, times: np.ndarray | None = None) -> dict[str, float]:
    """AUROC and average precision of scores, high meaning unsafe.

    Args:
        unsafe: bool ``[N]``, with both values in it.
        scores: floats ``[N]``.
        times: int ``[N]``, how many tokens each stands for; None is one.
    """
    from sklearn.metrics import average_precision_score, roc_auc_score  # a second, which a list of rows does not need

    return {
        "auroc": float(roc_auc_score(unsafe, scores, sample_weight=times)),
        "average_precision": float(average_precision_score(unsafe, scores, sample_weight=times)),
        "unsafe_share": float(np.average(unsafe, weights=times)),
    }
