"""`discard_fraction: auto`: which held-out rows tell what is lost, and how far down that lets one drop."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tosslm.config import Config
from tosslm.errors import TosslmError
from tosslm.runs.layout import HELDOUT
from tosslm.runs.ranking import cross_fitted_log_odds, learn_ranking, useful_log_odds
from tosslm.runs.tables import Parts, held_out_scores
from tosslm.selection.control import (
    EVEN_ODDS,
    Control,
    controlled_threshold,
    estimated_threshold,
    mean_shares,
    rows_needed,
    sets_threshold,
    useful_loss,
)
from tosslm.selection.kinds import InContext, Kind


@dataclass(frozen=True, slots=True)
class Useful:
    """Held-out useful rows that tell what is lost.

    Attributes:
        log_odds: of unsafe, one float array ``[n]`` a row.
        bounds: whether they are enough, and had no part in what gives the log-odds, so that a bound can be had.
    """

    log_odds: list[np.ndarray]
    bounds: bool


def learnt_apart(
    config: Config, kind: Kind, folder: Path, scored: Callable[[], Parts]
) -> tuple[dict[str, Any], InContext, Useful | None]:
    """What makes evidence of scores, learnt without the held-out rows that bound what is lost.

    Args:
        config: of the run.
        kind: of evidence.
        folder: of a round's scores, with its held-out rows.
        scored: streams the custom set's scores.

    Returns:
        As of ``learn_ranking``; and the useful rows, None where no threshold is asked for or where they are too few
        to tell anything.

    Raises:
        TosslmError: as of ``learn_ranking``.
    """
    own = config.selection
    auto = own.discard_fraction == "auto"
    spared = held_out_scores(folder / HELDOUT, sets_threshold)["utility"] if kind.from_rows else []
    # Rows that stayed in a trim are not as useful rows are drawn, which a bound takes.
    drawn = not config.data.utility.of_custom
    bounds = auto and drawn and len(spared) >= rows_needed(own.false_discard)
    fitted = (lambda content: not sets_threshold(content)) if bounds else (lambda _: True)
    facts, in_context = learn_ranking(kind, folder, seed=config.seed, window=own.window, of=fitted, parts=scored)
    useful = useful_log_odds(folder, in_context) if bounds else _estimating(config, folder, scored) if auto else []
    return facts, in_context, Useful(useful, bounds) if useful else None


def _estimating(config: Config, folder: Path, scored: Callable[[], Parts]) -> list[np.ndarray]:
    """Few held-out rows, each under what the other half gives; none where a half of them tells nothing."""
    try:
        return cross_fitted_log_odds(folder, seed=config.seed, parts=scored)
    except TosslmError:
        return []


def found_threshold(useful: Useful | None, false_discard: float, ranked: Callable[[], Parts]) -> Control | None:
    """How far down to drop; None where held-out rows cannot tell.

    Args:
        useful: of ``learnt_apart``.
        false_discard: share of useful text that may go.
        ranked: streams the custom set's log-odds.
    """
    if useful is None:
        return None
    loss = useful_loss(useful.log_odds)
    dropped = mean_shares(((part, lengths) for _, lengths, part in ranked()), loss.thresholds)
    found = controlled_threshold if useful.bounds else estimated_threshold
    return found(loss, false_discard, dropped)


def threshold_facts(control: Control | None, config: Config) -> dict[str, Any]:
    """What became of the bound on useful text; where not even an estimate can be had, even odds decide alone."""
    none = {"threshold": EVEN_ODDS, "rows": None, "risk": None, "bound": None, "dropped": None, "sooner": None}
    known = asdict(control) if control else none
    false_discard = config.selection.false_discard
    needed = None if config.data.utility.of_custom else 2 * rows_needed(false_discard)
    return known | {"false_discard": false_discard, "rows_needed": needed}
