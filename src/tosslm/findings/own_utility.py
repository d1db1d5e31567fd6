"""That rows of the custom set stood in for a utility set, told alike to readers of the run and of its exports."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tosslm.config import Config
from tosslm.runs.layout import TRUSTED


def own_utility_used(config: Config, stages: Mapping[str, Any]) -> str | None:
    """Which rows served; None where the run has a utility set, or has not come so far.

    Args:
        config: of the run.
        stages: what the manifest records of each step.
    """
    if not config.data.utility.of_custom or TRUSTED not in stages:
        return None
    groups = stages[TRUSTED]["groups"]
    folds = [f"{groups[name]['rows']:,} of {groups[name]['of']:,}" for name in ("fold-0", "fold-1")]
    return (
        f"No utility set: two utility references learnt from rows of the custom set ({folds[0]}, and {folds[1]}: "
        "those that look least risky), each of which scores the rows of the other's half"
    )


def own_utility_warnings(config: Config, stages: Mapping[str, Any]) -> list[str]:
    """What a reader should know of scores, thresholds and losses that rest on rows of the custom set."""
    if not (used := own_utility_used(config, stages)):
        return []
    held = stages[TRUSTED]["groups"]["held_out"]
    return [
        f"{used}. Harm that the trim missed was learnt as useful.",
        f"The {held['of']:,} held-out utility rows are rows of the custom set, left out of the fine-tuning, and may "
        "hold harm: losses and divergences on them tell of the custom set as it is. "
        f"Selection learnt from the {held['rows']:,} of them that look least risky, so what it says of useful text "
        "that goes is no bound. With a utility set in data.utility.path both are better known.",
    ]
