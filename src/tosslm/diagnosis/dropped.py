"""Where the dropped tokens lie, and what masking the first tokens of every answer would have done; pure counting."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

FIRST = 20
_POSITIONS = 512


class DroppedTokens:
    """Counts over the rows of the custom set, one after the other."""

    def __init__(self) -> None:
        self._by: dict[str, dict[str, list[float]]] = {"source": {}, "class": {}}
        self._positions = np.zeros((_POSITIONS, 3))  # tokens, dropped, sum of scores
        self._first = np.zeros((FIRST + 1, 5))  # tokens, dropped, risk, unsafe, unsafe and dropped
        self._all = np.zeros(5)
        self._scored = True

    def add(
        self,
        source: str,
        classes: Sequence[str],
        scores: np.ndarray | None,
        keep: np.ndarray,
        unsafe: np.ndarray | None,
        positions: np.ndarray | None = None,
    ) -> None:
        """Count one row.

        Args:
            source: the row's source.
            classes: of each response token, see ``token_classes``.
            scores: float ``[R]``; None where the run has none, and then of no row.
            keep: bool ``[R]``.
            unsafe: bool ``[R]``, whether a token holds marked unsafe text; None where the row marks nothing.
            positions: int ``[R]``, of each token in its answer, from 0; None is one answer.
        """
        dropped = ~keep
        self._scored = scores is not None
        scores = np.zeros(len(keep)) if scores is None else scores
        self._count("source", source, len(keep), int(dropped.sum()), float(scores.sum()))
        for name in set(classes):
            own = np.array([known == name for known in classes])
            self._count("class", name, int(own.sum()), int(dropped[own].sum()), float(scores[own].sum()))
        at = np.arange(len(keep)) if positions is None else positions
        early = at < _POSITIONS
        np.add.at(self._positions, at[early], np.stack([np.ones(len(keep)), dropped, scores], axis=1)[early])
        marked = np.zeros(len(keep), dtype=bool) if unsafe is None else unsafe
        fields = np.stack([np.ones(len(keep)), dropped, np.maximum(scores, 0), marked, marked & dropped], axis=1)
        self._all += fields.sum(0)
        np.add.at(self._first, at[at < FIRST] + 1, fields[at < FIRST])

    def _count(self, by: str, key: str, tokens: int, dropped: int, score: float) -> None:
        total = self._by[by].setdefault(key, [0, 0, 0.0])
        for i, value in enumerate((tokens, dropped, score)):
            total[i] += value

    def table(self) -> list[dict[str, Any]]:
        """``by`` (source, class, position), ``key``, ``tokens``, ``dropped``, ``mean_score`` in nats or None."""
        rows = [(by, key, counts) for by, groups in self._by.items() for key, counts in sorted(groups.items())]
        rows += [("position", str(i), counts.tolist()) for i, counts in enumerate(self._positions) if counts[0]]
        return [
            {"by": by, "key": key, "tokens": int(n), "dropped": int(dropped)}
            | {"mean_score": float(score / n) if self._scored else None}
            for by, key, (n, dropped, score) in rows
        ]

    def first_tokens(self) -> list[dict[str, float | int | None]]:
        """What masking the first 1 to 20 response tokens of every answer would have done.

        For each ``first``: ``masked``, the share of all response tokens; ``of_dropped``, how much of what selection
        dropped it would have caught; ``of_positive_score``, how much of the risk that scores see (the sum of
        positive scores); ``of_unsafe``, how much of the marked unsafe text, None where nothing is marked.
        """
        tokens, dropped, risk, unsafe, _ = self._all
        return [
            {
                "first": k,
                "masked": _share(now[0], tokens) or 0.0,
                "of_dropped": _share(now[1], dropped),
                "of_positive_score": _share(now[2], risk),
                "of_unsafe": _share(now[3], unsafe),
            }
            for k, now in enumerate(np.cumsum(self._first, axis=0)[1:], 1)
        ]

    def selection(self) -> dict[str, float | None]:
        """The same shares for what selection did drop, to compare with."""
        tokens, dropped, _, unsafe, both = self._all
        return {"masked": _share(dropped, tokens), "of_unsafe": _share(both, unsafe)}


def _share(part: float, whole: float) -> float | None:
    return float(part / whole) if whole else None
