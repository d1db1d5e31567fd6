"""Peak memory of everything that reads rows, each in a process of its own, on ever more of them.

    python -m benchmarks.memory                          # 1,000 to 1,000,000 made rows: hours, 4 GB of disk
    python -m benchmarks.memory --rows 1000 10000
    python -m benchmarks.memory --stage data "select, token" --keep

Rows are made, of about 25 response tokens, every tenth with marked text. ``data`` and ``plan`` read all of them; what
comes after is given 1,000 tokenised ones over and over, each with an id of its own. Scores are made too, so no model
reads anything but in ``score``. The references' sets stay at 200 rows.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parents[1] / "tests"))

from benchmarks.measuring import (
    HERE,
    MADE,
    Results,
    folder_of,
    in_process,
    lacking,
    measured,
    parser_of,
    provenance_told,
)
from benchmarks.memory_stages import BEFORE, BY_NAME, MEASURED, Measured, base, finish, made_sets, outputs, write_sets

NAME = "memory"
SIZES = (1000, 10_000, 100_000, 1_000_000)
WHOLE = "whole"
"""Marks a folder whose rows and scores were all made."""
SHARE, MEGABYTES = 1.1, 16
"""A peak that from the last size but one to the last grows by no more than a tenth, or by so many MB, is constant."""


def one(folder: Path, name: str) -> dict[str, Any]:
    """Measure one stage in this process, libraries and all."""
    stage = BY_NAME[name]
    return measured(lambda: stage.work(folder))


def in_processes(folder: Path, stage: Measured, rows: int) -> dict[str, Any]:
    """Measure a stage; what it needs before it, and others after it, is made in processes of their own.

    What another try of it has written is removed first. With the figures goes the reason why it grows, since other
    code may have another.
    """
    for path in outputs(folder, stage.name):
        shutil.rmtree(path, ignore_errors=True)
    if stage.name in ("data", "plan") and not (folder / "custom.jsonl").exists():
        _apart("--lines", folder, rows)
    found = in_process(NAME, folder, stage.name)
    _apart("--finish", folder, stage.name)
    return found | {"grows": stage.grows}


def _apart(*arguments: object) -> None:
    subprocess.run([sys.executable, "-m", f"benchmarks.{NAME}", *map(str, arguments)], cwd=HERE.parent, check=True)


def growth(sizes: list[int], peaks: list[float]) -> tuple[bool, float]:
    """Whether a peak is constant from the last size but one to the last, and bytes that it grows by for each row.

    Args:
        sizes: rows, ascending.
        peaks: of memory, MB, one a size.
    """
    (few, many), (low, high) = sizes[-2:], peaks[-2:]
    return high <= SHARE * low or high - low <= MEGABYTES, 1e6 * (high - low) / (many - few)


def _line(stage: Measured, sizes: list[int], cases: dict[str, Any]) -> str | None:
    """A stage's line; None where fewer than two sizes are measured. It is judged where all of them are."""
    own = {rows: cases[key]["peak_mb"] for rows in sizes if (key := f"{stage.name} {rows}") in cases}
    if len(own) < 2:
        return None
    constant, a_row = growth(list(own), list(own.values()))
    cells = [f"{own[rows]:.0f}" if rows in own else "-" for rows in sizes]
    reason = cases[f"{stage.name} {list(own)[-1]}"].get("grows", BEFORE.get(stage.name))
    why = "yes" if constant else f"**no**{f': {reason}' if reason else ''}"
    if lacks := lacking({"cases": cases}, _names([stage], sizes)):
        why = f"not judged, {lacks}"
    return f"| {stage.name} | {' | '.join(cells)} | {a_row:+,.0f} | {why} |"


def _names(stages: Iterable[Measured], sizes: list[int]) -> list[str]:
    """Of the cases of stages."""
    return [f"{stage.name} {rows}" for stage in stages for rows in sizes if rows <= stage.most]


def section(results: dict[str, Any]) -> str:
    """The page's section."""
    sizes, cases = results["settings"]["rows"], results["cases"]
    head = " | ".join(f"{rows:,} rows" for rows in sizes)
    told = {stage.name: _line(stage, sizes, cases) for stage in MEASURED}
    missing = [name for name, line in told.items() if line is None]
    lines = [
        "## Memory",
        "",
        "`python -m benchmarks.memory`: the peak resident memory of a process that does one stage or command, in MB, "
        "once for each size, "
        f"on made rows of about {results['settings']['tokens_a_row']} response tokens, every tenth with marked text; "
        "most of it are libraries; none is below the 100 or so that the benchmark itself holds when it starts the "
        "process. The references' sets stay at 200 rows; scores are made, but for `score`, which "
        "reads with a model of two layers and random weights. A line counts as constant where the peak of the "
        f"largest set measured is at most a tenth, or {MEGABYTES} MB, above that of the size before it; bytes a row "
        "are what it grew by between those two, for each row. What works through rows one by one in Python is "
        "measured on fewer. The report grows until as many rows as fit are in it.",
        "",
        f"| stage or command | {head} | bytes a row | constant |",
        "|---|" + "---|" * (len(sizes) + 2),
        *filter(None, told.values()),
        *(["", f"Not measured by this version yet: {'; '.join(missing)}."] if missing else []),
    ]
    return "\n".join([*lines, "", provenance_told(results, lacking(results, _names(MEASURED, sizes)))])


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--rows", type=int, nargs="+", default=list(SIZES))
    parser.add_argument("--stage", nargs="+", choices=list(BY_NAME), default=list(BY_NAME))
    parser.add_argument("--keep", action="store_true", help="leave the made rows, for another call")
    parser.add_argument("--one", nargs=2, metavar=("FOLDER", "STAGE"), help="measure one, in this process")
    parser.add_argument("--finish", nargs=2, metavar=("FOLDER", "STAGE"), help="make what comes after one")
    parser.add_argument("--sets", nargs=2, metavar=("FOLDER", "ROWS"), help="make the model, and the run to measure")
    parser.add_argument("--lines", nargs=2, metavar=("FOLDER", "ROWS"), help="make the sets as JSON Lines")
    args = parser.parse_args()
    if args.one:
        print(json.dumps(one(Path(args.one[0]), args.one[1])))
    elif args.finish:
        finish(Path(args.finish[0]), args.finish[1])
    elif args.lines:
        write_sets(Path(args.lines[0]), int(args.lines[1]))
    elif args.sets:
        base(Path(args.sets[0]).parent / "base")
        made_sets(Path(args.sets[0]), int(args.sets[1]))
    else:
        results = Results(NAME, {"rows": args.rows, "tokens_a_row": 25}, folder_of(parser, args))
        _measure_all(results, args.rows, args.stage, keep=args.keep)


def _measure_all(results: Results, sizes: list[int], names: list[str], *, keep: bool) -> None:
    for rows in sizes:
        folder = MADE / f"rows-{rows}"
        if not (folder / WHOLE).exists():
            shutil.rmtree(folder, ignore_errors=True)
            _apart("--sets", folder, rows)  # not here: what this process has held at most, its children start from
            _apart("--finish", folder, "score")
            (folder / WHOLE).touch()
        for name in names:
            if rows <= BY_NAME[name].most:
                results.measure(f"{name} {rows}", partial(in_processes, folder, BY_NAME[name], rows))
        if not keep:
            shutil.rmtree(folder)


if __name__ == "__main__":
    main()
