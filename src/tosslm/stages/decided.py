"""What people decided, for selection: read and checked, kept with the mask, covered by its fingerprint, recorded."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tosslm.errors import InputError
from tosslm.files import write_text
from tosslm.runs.decisions import ByHand, by_hand, print_of, read_text
from tosslm.runs.recorded import Mark
from tosslm.workbench import Workbench


def decisions_cover(bench: Workbench) -> list[Any]:
    """The bytes of people's decisions; nothing where there are none, so that such runs are known as before."""
    path = bench.config.selection.overrides
    return [] if path is None else [{"overrides": print_of(read_text(Path(path)))}]


def people_decided(bench: Workbench, mark: Mark) -> ByHand:
    """What people decided of the custom set; a copy stays with the mask, so that it says whose choice it is.

    Args:
        bench: of the run.
        mark: of the selection, which covers the decisions that it was begun with.

    Raises:
        InputError: the file does not fit the rows; names file and line. Or it has changed since selection began.
    """
    layout, named = bench.layout, bench.config.selection.overrides
    layout.decisions.unlink(missing_ok=True)
    if named is None:
        return ByHand()
    text = read_text(Path(named))  # once: a review may save more of them at any time
    if {"overrides": print_of(text)} not in mark.covered:
        raise InputError(f"selection.overrides: {named} has changed since selection began; `toss select` again")
    decided = by_hand(text, named, layout)
    write_text(layout.decisions, text)
    return decided


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
    nothing = counts["discarded"] == counts["tokens"]
    if not by_hand.sha256:
        if nothing:
            raise InputError(
                f"selection: all {counts['tokens']:,} tokens are dropped, so nothing is left to train on; lower "
                "selection.discard_fraction, or mend what chose them (method, compare.harmful_sources, unsafe_spans)"
            )
        return {}
    if nothing:
        raise InputError("selection.overrides: every token is dropped, so nothing is left to train on; keep some")
    return {"overrides": by_hand.facts() | {"rows_emptied": emptied, "budget": budget}}
