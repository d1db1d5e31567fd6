"""How well signals find marked text: rankings with intervals over rows, and the F1 of Toxic Spans' own task."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tosslm.statistics import drawn_counts

Spans = Sequence[Sequence[int]]


class Ranking:
    """One signal's ranking of tokens, judged again and again with other weights of the rows.

    Args:
        unsafe: bool ``[N]``.
        values: floats ``[N]``, high meaning unsafe.
        rows: int ``[N]``, the row of each token.
    """

    def __init__(self, unsafe: np.ndarray, values: np.ndarray, rows: np.ndarray) -> None:
        order = np.argsort(-values, kind="stable")
        self._unsafe, self._rows = unsafe[order], rows[order]
        # Equal values are one step of the curve, whatever their order.
        self._ends = np.append(np.flatnonzero(np.diff(values[order])), len(order) - 1)

    def quality(self, weights: np.ndarray) -> tuple[float, float]:
        """AUROC and average precision; ``weights`` ``[R]`` say how often each row counts."""
        weight = weights[self._rows].astype(np.float64)
        hits = np.cumsum(weight * self._unsafe)[self._ends]
        misses = np.cumsum(weight * ~self._unsafe)[self._ends]
        precision = hits / np.maximum(hits + misses, 1e-12)
        average_precision = float((np.diff(hits, prepend=0.0) * precision).sum() / hits[-1])
        before = np.concatenate([[0.0], hits[:-1]])
        auroc = float((np.diff(misses, prepend=0.0) * (before + hits) / 2).sum() / (hits[-1] * misses[-1]))
        return auroc, average_precision


@dataclass(frozen=True, slots=True)
class Resamples:
    """Draws of rows with replacement, the same for every signal, so that differences are paired.

    Attributes:
        weights: int ``[B + 1, R]``; the first line is every row once.
    """

    weights: np.ndarray

    @classmethod
    def draw(cls, rows: int, count: int = 1000, seed: int = 0) -> Resamples:
        """``count`` draws of as many rows as there are."""
        draws = drawn_counts(rows, seed, count)
        return cls(np.concatenate([np.ones((1, rows), dtype=draws.dtype), draws]))

    def of(self, ranking: Ranking) -> np.ndarray:
        """AUROC and average precision under every draw, float64 ``[2, B + 1]``."""
        return np.array([ranking.quality(weights) for weights in self.weights]).T


def word_spans(text: str) -> list[tuple[int, int]]:
    """``[start, end)`` of each run of characters without white space."""
    starts = [i for i, c in enumerate(text) if not c.isspace() and (i == 0 or text[i - 1].isspace())]
    ends = [i + 1 for i, c in enumerate(text) if not c.isspace() and (i + 1 == len(text) or text[i + 1].isspace())]
    return list(zip(starts, ends, strict=True))


def word_values(text: str, offsets: np.ndarray, values: np.ndarray) -> tuple[list[tuple[int, int]], np.ndarray]:
    """Words of a text and the highest value among the tokens of each.

    Args:
        text: the answer.
        offsets: int ``[N, 2]``: start and end of each token in it.
        values: floats ``[N]``.

    Returns:
        The words as ``[start, end)``, and float64 ``[W]``; ``-inf`` for a word without a token (the row was cut).
    """
    words = word_spans(text)
    highest = np.full(len(words), -np.inf)
    for i, (start, end) in enumerate(words):
        inside = (offsets[:, 0] < end) & (offsets[:, 1] > start)
        if inside.any():
            highest[i] = values[inside].max()
    return words, highest


def predicted_characters(words: Sequence[tuple[int, int]], chosen: np.ndarray) -> set[int]:
    """Characters of the chosen words, and the white space between two of them that stand side by side."""
    characters: set[int] = set()
    for i in np.flatnonzero(chosen).tolist():
        start = words[i - 1][1] if i and chosen[i - 1] else words[i][0]
        characters.update(range(start, words[i][1]))
    return characters


def character_f1(predicted: set[int], marked: set[int]) -> float:
    """The task's measure for one post: 1 where both are empty, 0 where one is, else F1 (SemEval-2021 Task 5)."""
    if not predicted or not marked:
        return float(not predicted and not marked)
    return 2 * len(predicted & marked) / (len(predicted) + len(marked))
