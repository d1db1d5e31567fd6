"""What a method to compare with is: a ranking of tokens, a choice of them, other rows, or other settings."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from tosslm.config import Config
from tosslm.training.trainer import TokenLoss


@dataclass(frozen=True, slots=True)
class Material:
    """What a method may look at. Everything is in memory; ``N`` response tokens in ``R`` rows.

    Attributes:
        lengths: int64 ``[R]``, response tokens of each row.
        positions: int64 ``[N]``, how many response tokens of the same answer stand before each.
        sources: ``[R]``, each row's source.
        texts: ``[R]``, each row's conversation as one text.
        target_texts: the same of the rows that the utility reference was trained on.
        loss_degraded: float32 ``[N]``, nats; empty where the method needs no scores.
        loss_utility: float32 ``[N]``, likewise.
        unsafe: bool ``[N]``, tokens of segments that a guard calls unsafe; empty where the method asks none.
        row_weights: float64 ``[R]``, what SEAL's selector gives each row; empty where the method asks none.
        discard_fraction: share of tokens to drop.
        harmful_sources: names that the config calls harmful.
        seed: of what is random.
    """

    lengths: np.ndarray
    positions: np.ndarray
    sources: list[str]
    texts: list[str]
    target_texts: list[str]
    loss_degraded: np.ndarray
    loss_utility: np.ndarray
    unsafe: np.ndarray
    row_weights: np.ndarray
    discard_fraction: float
    harmful_sources: frozenset[str]
    seed: int

    @property
    def scores(self) -> np.ndarray:
        """Float32 ``[N]``: loss under the utility minus loss under the degraded reference."""
        return self.loss_utility - self.loss_degraded


def plain_settings(config: Config) -> dict[str, Any]:
    """The config of plain TOSS, whatever the user's own says of evidence, anchors and rounds."""
    return {
        "selection.scope": "global",
        "selection.evidence": "token",
        "refinement.rounds": 0,
        "finetune.dropped": "ignore",
    }


def _fine(config: Config) -> None:
    return None


@dataclass(frozen=True, slots=True)
class Baseline:
    """A method to compare with.

    Attributes:
        name: what it is called on the command line.
        summary: what it does.
        source: where it is from.
        differs: what differs here from its source.
        needs: the last stage of a run that it builds on: ``data``, ``score``, or ``refine``.
        keep: chooses tokens: a mask, bool ``[N]``. None leaves the choice to the pipeline's own selection.
        overrides: changes of the config, by dotted key.
        extra_rows: further training rows, of data folder and config; appended to the custom set's.
        token_loss: what takes the place of a token's cross-entropy.
        asks_guard: whether it needs what the guard of ``compare.guard`` says.
        asks_selector: whether it needs the row weights that SEAL's selector learns from ``compare.safety``.
        trains: False for the untouched base.
        check: refuses a config at the door.
        version: raised when what it does changes.
    """

    name: str
    summary: str
    source: str
    differs: str = "nothing"
    needs: Literal["data", "score", "refine"] = "score"
    keep: Callable[[Material], np.ndarray] | None = None
    overrides: Callable[[Config], Mapping[str, Any]] = field(default=plain_settings)
    extra_rows: Callable[[Path, Config], Iterator[dict[str, Any]]] | None = None
    token_loss: TokenLoss | None = None
    asks_guard: bool = False
    asks_selector: bool = False
    trains: bool = True
    check: Callable[[Config], None] = field(default=_fine)
    version: int = 1

    @property
    def changes_training(self) -> bool:
        """Whether it trains other than by the choice of tokens."""
        return self.extra_rows is not None or self.token_loss is not None


def keep_rows(material: Material, kept: np.ndarray) -> np.ndarray:
    """A token mask, bool ``[N]``, of a row mask, bool ``[R]``."""
    return np.repeat(kept, material.lengths)


def drop_rows_in_order(material: Material, order: np.ndarray) -> np.ndarray:
    """Drop whole rows, first to last, within the budget of tokens that token methods have.

    A row is dropped if it fits in what is left of ``floor(d * N)`` tokens; one that does not is passed over, so that
    the budget is used as far as whole rows allow.

    Args:
        material: the rows.
        order: int ``[R]``, rows from the first to drop to the last.

    Returns:
        bool ``[R]``, which rows are kept.
    """
    left = int(np.floor(material.discard_fraction * float(material.lengths.sum())))
    kept = np.ones(len(material.lengths), dtype=bool)
    for row in order:
        if material.lengths[row] <= left:
            kept[row] = False
            left -= int(material.lengths[row])
    return kept
