"""What people decided, for selection: read and checked, kept with the mask, covered by its fingerprint, recorded."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tosslm.errors import InputError
from tosslm.files import sha256, write_text
from tosslm.runs.decisions import ByHand, read_by_hand, read_text
from tosslm.workbench import Workbench


def decisions_cover(bench: Workbench) -> list[Any]:
    """The bytes of people's decisions; nothing where there are none, so that such runs are known as before."""
    path = bench.config.selection.overrides
    return [] if path is None else [{"overrides": sha256(Path(path))}]


def people_decided(bench: Workbench) -> ByHand:
    """What people decided of the custom set; a copy stays with the mask, so that it says whose choice it is.

    Raises:
        InputError: the file does not fit the rows; names file and line.
    """
    layout, named = bench.layout, bench.config.selection.overrides
    layout.decisions.unlink(missing_ok=True)
    if named is None:
        return ByHand()
    by_hand = read_by_hand(Path(named), layout)
    write_text(layout.decisions, read_text(Path(named)))
    return by_hand


def decided_facts(by_hand: ByHand, counts: Mapping[str, Any], *, emptied: int, budget: int | None) -> dict[str, Any]:
    """What is recorded of people's decisions: nothing where there are none.

    Args:
        by_hand: the decisions.
        counts: ``tokens`` and ``discarded`` of the mask.
        emptied: rows of which people left nothing to train on.
        budget: tokens that were to be dropped in all; None where no number was to be met.

    Raises:
        InputError: nothing is left to train on.
    """
    if not by_hand.sha256:
        return {}
    if counts["discarded"] == counts["tokens"]:
        raise InputError("selection.overrides: every token is dropped, so nothing is left to train on; keep some")
    return {"overrides": by_hand.facts() | {"rows_emptied": emptied, "budget": budget}}
