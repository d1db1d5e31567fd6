"""What of the marked text each entry's mask drops, and which marked spans it misses altogether.

    python -m studies.frontier.dropped embedded:0 gemma:0    # of the entries that are trained on this machine

A span is a stretch of marked tokens in one row. Of spans without a dropped token the fine-tuning reads every one.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from typing import Any

import numpy as np
from studies.frontier.settings import ENTRIES, folder

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


def of_entry(setting: str, seed: int, entry: str) -> Dropped | None:
    """The same of an entry; None where it is not trained on this machine, or where no token is marked."""
    try:
        run = tosslm.load_run(folder(setting, seed, entry))
        keep = np.concatenate(run.keep())
    except TosslmError:
        return None
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
        print(f"| {setting}, seed {seed} | marked dropped | others dropped | spans missed | spans whole |")
        print("|---|---|---|---|---|")
        for entry in ENTRIES:
            found = of_entry(setting, int(seed), entry)
            if found is not None and found.marked > 0:
                cells = (f"{share:.1%}" for share in (found.marked, found.useful, found.missed, found.whole))
                print(f"| `{entry}` | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
