"""What an export has in it and what it lost, as lines."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any


def export_lines(facts: Mapping[str, Any], out: Path, url: str | None = None) -> list[str]:
    """The lines that the command prints.

    Args:
        facts: of ``export.json``.
        out: the folder.
        url: of the data set that it was uploaded to.
    """
    lines = [
        f"{out}: {facts['rows']:,} rows, {facts['trained_tokens']:,} trained and {facts['dropped_tokens']:,} dropped "
        f"response tokens; the longest row has {facts['longest_row']:,} tokens.",
    ]
    if nothing := facts["rows_that_train_on_nothing"]:
        lines.append(f"{nothing:,} rows train on nothing.")
    for length, counts in facts["cut_at"].items():
        if counts["rows_cut"]:
            lines.append(
                f"A trainer that cuts at {int(length):,} tokens cuts {counts['rows_cut']:,} rows; "
                f"{counts['rows_that_train_on_nothing']:,} then train on nothing."
            )
    lines += [f"Lost: {sentence}" for sentence in facts["lost"]]
    lines += [f"For {consumer}: {out / file}" for consumer, file in facts["configs"].items()]
    if url:
        seen = "only its owner sees it" if facts["hub"]["private"] else "everybody sees it"
        lines.append(f"Uploaded to {url}; {seen}. It holds the whole text of the rows, harmful text too.")
    return lines
