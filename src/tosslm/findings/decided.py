"""What people decided of a run's tokens, and what became of the share that was to be dropped."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tosslm.findings.sentence import Sentence, Strong

_NAMED = 5


def decided_told(selection: Mapping[str, Any]) -> Sentence | None:
    """How many tokens were decided by hand, and by whom; None where nobody decided.

    Args:
        selection: as recorded of the step.
    """
    if (decided := selection.get("overrides")) is None:
        return None
    people = sorted(decided["by"].items(), key=lambda item: (-item[1], item[0]))
    named = ", ".join(f"{name} {count:,}" for name, count in people[:_NAMED])
    others = f" and {len(people) - _NAMED:,} others" if len(people) > _NAMED else ""
    return Sentence(
        Strong(f"{decided['tokens_dropped']:,}"),
        " tokens were dropped and ",
        Strong(f"{decided['tokens_kept']:,}"),
        f" kept by people, in {decided['rows']:,} rows",
        f" ({named}{others})." if named else ".",
    )


def decided_warnings(selection: Mapping[str, Any]) -> list[str]:
    """Where decisions leave the share of dropped tokens another one than the config's, or rows without any token."""
    if (decided := selection.get("overrides")) is None:
        return []
    found = []
    if decided["rows_emptied"]:
        found.append(
            f"Rows that train on nothing, as people dropped all that was left of them: {decided['rows_emptied']:,}."
        )
    budget, gone = decided["budget"], selection["discarded"]
    if budget is not None and gone != budget:
        why = "people dropped more than that" if gone > budget else "people kept so many that no more were left"
        share = f"{selection['discarded'] / selection['tokens']:.1%}"
        found.append(
            f"{gone:,} tokens ({share}) are dropped in place of {budget:,}, as selection.discard_fraction has it: "
            f"{why}."
        )
    return found
