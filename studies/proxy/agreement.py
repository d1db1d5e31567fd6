"""How well one model's token scores agree with another's, on the same tokens; pure."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from sklearn.metrics import average_precision_score

from tosslm import select_tokens

DRAWS = 500
Interval = dict[str, float]


@dataclass(frozen=True, slots=True)
class Tokens:
    """The base's response tokens, rows one after the other.

    Attributes:
        full: float64 ``[N]``, full-size scores.
        unsafe: bool ``[N]``, which lie in text that is marked unsafe.
        rows: int64 ``[N]``, the row of each.
    """

    full: np.ndarray
    unsafe: np.ndarray
    rows: np.ndarray


def agreement(tokens: Tokens, scores: np.ndarray, discard_fraction: float) -> dict[str, Interval]:
    """Rank correlation with full-size scores, share of the tokens they drop that is dropped too, average precision.

    Args:
        tokens: of the base.
        scores: float64 ``[N]``, what is compared.
        discard_fraction: share that each drops.

    Returns:
        ``spearman``, ``overlap`` and ``average_precision``, each with the 95% interval of a bootstrap over rows.
    """

    def measures(at: np.ndarray) -> tuple[float, float, float]:
        full, own = tokens.full[at], scores[at]
        dropped = ~select_tokens(full.astype(np.float32), discard_fraction)
        also = ~select_tokens(own.astype(np.float32), discard_fraction)
        return (
            float(np.corrcoef(ranks(full), ranks(own))[0, 1]),
            float((dropped & also).sum() / dropped.sum()),
            float(average_precision_score(tokens.unsafe[at], own)),
        )

    everything = measures(np.arange(len(scores)))
    members = np.split(np.arange(len(scores)), np.flatnonzero(np.diff(tokens.rows)) + 1)
    random = np.random.default_rng(0)
    drawn = [
        measures(np.concatenate([members[row] for row in random.integers(len(members), size=len(members))]))
        for _ in range(DRAWS)
    ]
    low, high = np.percentile(drawn, [2.5, 97.5], axis=0)
    names = ("spearman", "overlap", "average_precision")
    return {
        name: {"value": value, "low": float(low[i]), "high": float(high[i])}
        for i, (name, value) in enumerate(zip(names, everything, strict=True))
    }


def ranks(values: np.ndarray) -> np.ndarray:
    """Ranks from 0 of values, equal ones sharing their mean: float64 ``[N]``. Spearman's is their correlation."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts + 1) / 2)[inverse]


def row_means(scores: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Each token's score replaced by its row's mean: float64 ``[N]``; what is left when all token detail is gone."""
    return (np.bincount(rows, weights=scores) / np.bincount(rows))[rows]


def shuffled(values: np.ndarray, has_text: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """A row's values with those of its tokens with text in random order: the row's sum, and nothing of its places."""
    mixed = values.copy()
    mixed[has_text] = random.permutation(values[has_text])
    return mixed
