"""What tokens of a run can be ranked by, learnt from what lies on disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from tosslm.errors import TosslmError
from tosslm.runs.layout import HELDOUT
from tosslm.runs.tables import finite_scores, held_out_scores
from tosslm.selection.kinds import InContext, Kind, Known

LEARNING_TOKENS = 2_000_000
"""Evidence for a larger custom set is learnt on about this many tokens of it, in rows drawn at random."""


def learn_ranking(
    kind: Kind, scores: Path, *, seed: int, window: int = 1, learning_tokens: int | None = None
) -> tuple[dict[str, Any], InContext]:
    """Learn what turns scores into evidence.

    Args:
        kind: of evidence.
        scores: folder of a round's parts, with its held-out rows.
        seed: of the rows that are learnt on, where not all are taken.
        window: tokens in a window.
        learning_tokens: about how many tokens of the custom set are learnt on; None for ``LEARNING_TOKENS``.

    Returns:
        What was learnt, for ``evidence.json``; and a function that takes the scores ``[N]`` of some rows and their
        lengths ``[R]`` and gives their evidence, float ``[N]``.

    Raises:
        TosslmError: a score is not finite, or nothing can be learnt, such as where the references do not tell harm
            from use.
    """
    assert kind.learn is not None, f"{kind.key} ranks scores as they are"
    known = Known({}, np.zeros(0), np.zeros(0, dtype=np.int64), seed, window)
    if kind.from_rows:
        sample, lengths = _sample(scores, seed, learning_tokens or LEARNING_TOKENS)
        known = Known(held_out_scores(scores / HELDOUT), sample, lengths, seed, window)
    try:
        return kind.learn(known)
    except ValueError as error:
        raise TosslmError(str(error)) from None


def _sample(scores: Path, seed: int, learning_tokens: int) -> tuple[np.ndarray, np.ndarray]:
    """Scores ``[N]`` and row lengths ``[R]`` of rows of the custom set, drawn by the seed."""
    total = sum(len(part) for _, _, part in finite_scores(scores))
    rng = np.random.default_rng(seed)
    parts, kept_lengths = [], []
    for _, lengths, part in finite_scores(scores):
        chosen = rng.random(len(lengths)) * total < learning_tokens
        parts.append(part[np.repeat(chosen, lengths)])
        kept_lengths.append(lengths[chosen])
    return np.concatenate(parts), np.concatenate(kept_lengths)
