"""What a method may look at when it chooses tokens, read from the run folder."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from tosslm.ragged import answer_positions
from tosslm.runs.layout import scores
from tosslm.runs.tables import read_losses, reference_rows, stored_rows

if TYPE_CHECKING:
    from tosslm.workbench import Workbench

_NONE = np.zeros(0, dtype=np.float32)


@dataclass(frozen=True, slots=True)
class Material:
    """What a method may look at. Everything is in memory; ``N`` response tokens in ``R`` rows.

    Attributes:
        lengths: int64 ``[R]``, response tokens of each row.
        positions: int64 ``[N]``, how many response tokens of the same answer stand before each.
        sources: ``[R]``, each row's source.
        texts: ``[R]``, each row's conversation as one text.
        target_texts: the same of the rows that the utility reference was trained on; with ``data.utility.from:
            custom`` of all that stand in, which may hold harm: a method that reads them ``needs`` ``UTILITY_SET``.
        discard_fraction: share of tokens to drop, for a method with ``drops_share``.
        seed: of what is random.
        harmful_sources: names that the config calls harmful.
        loss_degraded: float32 ``[N]``, nats; empty where the method builds on no scores.
        loss_utility: float32 ``[N]``, likewise.
        signals: the method's own, by name.
    """

    lengths: np.ndarray
    positions: np.ndarray
    sources: list[str]
    texts: list[str]
    target_texts: list[str]
    discard_fraction: float
    seed: int
    harmful_sources: frozenset[str] = frozenset()
    loss_degraded: np.ndarray = field(default_factory=lambda: _NONE)
    loss_utility: np.ndarray = field(default_factory=lambda: _NONE)
    signals: Mapping[str, np.ndarray] = field(default_factory=dict)

    @property
    def scores(self) -> np.ndarray:
        """Float32 ``[N]``: loss under the utility minus loss under the degraded reference."""
        return self.loss_utility - self.loss_degraded


def load_material(bench: Workbench, *, with_scores: bool, signals: Mapping[str, np.ndarray]) -> Material:
    """Read what a method may look at.

    Args:
        bench: of the run.
        with_scores: read both references' losses too.
        signals: what the method has made for itself.
    """
    layout, config = bench.layout, bench.config
    rows = list(stored_rows(layout.rows("custom"), ["source", "messages", "response_mask"]))
    masks = [np.asarray(row["response_mask"], dtype=bool) for row in rows]
    target = reference_rows(
        layout.rows("utility"),
        config.references.holdout,
        want_held_out=False,
        columns=("row_id", "messages"),
    )
    parts = list(read_losses(layout.of(scores(config.refinement.rounds)))) if with_scores else []
    utility, degraded = ([part[i] for part in parts] for i in (2, 3))
    return Material(
        lengths=np.array([mask.sum() for mask in masks], dtype=np.int64),
        positions=np.concatenate([answer_positions(mask) for mask in masks]),
        sources=[row["source"] for row in rows],
        texts=[_text(row["messages"]) for row in rows],
        target_texts=[_text(row["messages"]) for row in target],
        discard_fraction=0.0 if config.selection.discard_fraction == "auto" else config.selection.share,
        seed=config.seed,
        harmful_sources=frozenset(config.compare.harmful_sources),
        loss_degraded=np.concatenate(degraded) if degraded else _NONE,
        loss_utility=np.concatenate(utility) if utility else _NONE,
        signals=signals,
    )


def _text(messages: str) -> str:
    return "\n".join(message["content"] for message in json.loads(messages))
