"""What of the marked text and of each source an entry's mask drops, and which marked spans it misses altogether.

    python -m studies.frontier.dropped embedded:0 gemma:0    # of the entries that are trained on this machine

A span is a stretch of marked tokens in one row. Of spans without a dropped token the fine-tuning reads every one.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from typing import Any

import numpy as np
from studies.frontier.entries import ENTRIES
from studies.frontier.settings import folder

import tosslm
from tosslm.characters import unsafe_tokens
from tosslm.errors import TosslmError
from tosslm.ragged import row_starts


@dataclass(frozen=True, slots=True)
class Dropped:
    """Shares of a custom set that a mask drops.

    Attributes:
        marked: of the marked tokens.
        useful: of the others.
        missed: of the marked spans, those of which nothing is dropped.
        whole: of the marked spans, those that are dropped to the last token.
    """

    marked: float
    useful: float
    missed: float
    whole: float


def dropped(keep: np.ndarray, marked: np.ndarray, lengths: np.ndarray) -> Dropped:
    """What a mask drops.

    Args:
        keep: bool ``[N]``, rows one after the other.
        marked: bool ``[N]``, at least one and not all.
        lengths: int ``[R]``, tokens of each row.

    Examples:
        >>> keep = np.array([1, 0, 1, 1, 1, 1], dtype=bool)
        >>> dropped(keep, np.array([1, 1, 0, 1, 1, 0], dtype=bool), np.array([4, 2]))
        Dropped(marked=0.25, useful=0.0, missed=0.6666666666666666, whole=0.0)
    """
    begins = np.zeros(len(keep), dtype=bool)
    begins[row_starts(lengths)[:-1][lengths > 0]] = True
    first = marked & (begins | ~np.concatenate([[False], marked[:-1]]))
    span = np.cumsum(first)[marked] - 1
    shares = np.bincount(span, weights=~keep[marked]) / np.bincount(span)
    return Dropped(
        marked=float((~keep[marked]).mean()),
        useful=float((~keep[~marked]).mean()),
        missed=float((shares == 0).mean()),
        whole=float((shares == 1).mean()),
    )


def mask_of(setting: str, seed: int, entry: str) -> tuple[tosslm.Run, np.ndarray] | None:
    """The run of an entry and its keep mask; None where it is not trained on this machine."""
    try:
        run = tosslm.load_run(folder(setting, seed, entry))
        return run, np.concatenate(run.keep())
    except TosslmError:
        return None


def of_marked(run: tosslm.Run, keep: np.ndarray) -> Dropped | None:
    """What a run's mask drops of its marked text; None where no token is marked."""
    rows: Any = run.rows
    marks = [
        unsafe_tokens(offsets, spans or [])
        for offsets, spans in zip(rows["offsets"], rows["unsafe_spans"], strict=True)
    ]
    marked = np.concatenate(marks)
    return dropped(keep, marked, np.array([len(row) for row in marks])) if marked.any() else None


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("settings", nargs="+", metavar="SETTING:SEED")
    for item in parser.parse_args().settings:
        setting, _, seed = item.partition(":")
        print(
            f"| {setting}, seed {seed} | by source | marked dropped | others dropped | spans missed | spans whole |"
        )
        print("|---|---|---|---|---|---|")
        for entry in ENTRIES:
            known = mask_of(setting, int(seed), entry)
            if known is not None and not known[1].all():
                print(f"| `{entry}` | {' | '.join(_cells(*known))} |")


def _cells(run: tosslm.Run, keep: np.ndarray) -> list[str]:
    facts = json.loads(run.layout.selection_facts.read_text(encoding="utf-8"))["sources"]
    sources = (f"{name} {one['discarded']} of {one['tokens']}" for name, one in facts.items())
    found = of_marked(run, keep)
    shares = (found.marked, found.useful, found.missed, found.whole) if found else ()
    return [", ".join(sources), *([f"{share:.1%}" for share in shares] or [""] * 4)]


if __name__ == "__main__":
    main()
