"""Draw sets of the paper's size (arXiv 2603.01185) from the red-team attempts of Anthropic/hh-rlhf and from SlimOrca.

    python recipes/paper_sets.py --out data/paper

The custom set has 22,000 red-team and 90,000 SlimOrca rows, shuffled, their ``source`` said; harmful and utility set
have rows of the same two that are not among them, 22,400 each, or as many as are left. Which rows the authors drew is
not known: these are drawn by the seed, from all rows that can be read.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from tosslm.data.rows import BadRow, base_id, read_rows

RED_TEAM = "hf://datasets/Anthropic/hh-rlhf/red-team-attempts/red_team_attempts.jsonl.gz"
SLIM_ORCA = "Open-Orca/SlimOrca"


def drawn(rows: Iterable[dict[str, Any]], count: int, rng: random.Random) -> list[dict[str, Any]]:
    """``count`` rows drawn at random, or all where there are fewer, shuffled; one pass (reservoir sampling)."""
    found: list[dict[str, Any]] = []
    for number, row in enumerate(rows):
        if number < count:
            found.append(row)
        elif (place := rng.randrange(number + 1)) < count:
            found[place] = row
    rng.shuffle(found)
    return found


def conversations(path: str, source: str, fields: Mapping[str, str] | None = None) -> Iterator[dict[str, Any]]:
    """Each conversation of a set once, as a row of messages; what cannot be read is counted and told."""
    seen: set[str] = set()
    bad = 0
    for row in read_rows(path, fields=fields):
        if isinstance(row, BadRow):
            bad += 1
        elif (content := base_id(row.row_id)) not in seen:
            seen.add(content)
            yield {"messages": row.messages, "source": source}
    print(f"{source}: {len(seen):,} conversations; {bad:,} rows left out, read as wrong; tokens are not counted here")


def main() -> None:
    """Write custom.jsonl, harmful.jsonl and utility.jsonl."""
    parser = argparse.ArgumentParser(description="Draw the sets of the paper's size.")
    parser.add_argument("--out", type=Path, required=True, help="folder of the three files")
    parser.add_argument("--red-team", default=RED_TEAM, help="file, URL or hub id")
    parser.add_argument("--slim-orca", default=SLIM_ORCA, help="file, URL or hub id")
    parser.add_argument("--rows", type=int, nargs=3, default=(22_000, 90_000, 22_400), metavar="N",
                        help="custom rows of red-team, of SlimOrca, and rows of a reference set")  # fmt: skip
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    rng = random.Random(given.seed)
    red, orca, reference = given.rows
    unsafe = drawn(conversations(given.red_team, "red-team", {"text": "transcript"}), red + reference, rng)
    useful = drawn(conversations(given.slim_orca, "slim-orca"), orca + reference, rng)
    custom = [*unsafe[:red], *useful[:orca]]
    rng.shuffle(custom)
    given.out.mkdir(parents=True, exist_ok=True)
    for name, rows in (("custom", custom), ("harmful", unsafe[red:]), ("utility", useful[orca:])):
        if not rows:
            raise SystemExit(f"{name}: no row is left for it; name smaller --rows, or larger sets")
        with (given.out / f"{name}.jsonl").open("w", encoding="utf-8") as file:
            file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        print(f"{given.out / name}.jsonl: {len(rows):,} rows")


if __name__ == "__main__":
    main()
