"""The select stage from warm score parts to the written mask, beside a plain read and write of the same parts.

    python -m benchmarks.select_stage                                   # 1 to 1,000 million tokens, the last once
    python -m benchmarks.select_stage --million 1 10 --repeats 3
    python -m benchmarks.select_stage --million 1 10 100 --repeats 5 5 1           # as many of each size

Each repeat is a process of its own that has loaded its libraries; the three kinds take turns. *Plain* reads both
losses of every part and writes a mask of the same shape, and nothing else, so its ratio says what selection costs
beyond its files. From 10 million tokens on, the set is the first 10 million several times over, by links. A billion
tokens take 15 GB of disk meanwhile, nearly all of it for what is written: evidence, mask, and what is read again.
"""

from __future__ import annotations

import json
import shutil
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

sys.path.append(str(Path(__file__).parents[1] / "tests"))

from benchmarks import made
from benchmarks.measuring import (
    MADE,
    Results,
    folder_of,
    in_process,
    lacking,
    measured,
    parser_of,
    provenance_told,
    spread,
    verdict,
)

from support.benches import select_in
from tosslm.files import parquet_writer
from tosslm.runs.tables import KEEP_SCHEMA, list_column, read_losses

NAME = "select_stage"
KINDS = ("plain", "token", "posterior")
BARS = {"token": 20.0, "posterior": 40.0}
"""Seconds for 100 million tokens on two cores."""
SIZES = {1: 5, 10: 5, 100: 5, 1000: 1}
"""Millions of tokens, and how many repeats of each."""
REPEATS = 5
"""Fewer are too few for a spread."""
LIMIT = 1.1
"""A peak may grow by a tenth from the smallest set to the largest and still count as constant."""
KEPT = "kept"
"""Marks made sets that ``--keep`` has left: no other call removes them."""
MILLION_AT_ONCE = 10
"""Tokens of one made set, in millions; larger ones repeat it."""


def plain(folder: Path) -> None:
    """Read every part's losses and write a mask that keeps all."""
    with parquet_writer(folder / "plain.parquet", KEEP_SCHEMA, "plain") as writer:
        for ids, lengths, utility, _ in read_losses(folder / "scores/round-0"):
            columns = {"row_id": ids, "keep": list_column(np.ones(len(utility), dtype=bool), lengths)}
            writer.write_table(pa.table(columns, schema=writer.schema))


def one(folder: Path, kind: str) -> dict[str, float]:
    """Measure one kind in this process, its libraries loaded."""
    import sklearn.isotonic  # noqa: F401  # loaded late by the stage; once a process, not once a selection

    shutil.rmtree(folder / "selection", ignore_errors=True)
    return measured(lambda: plain(folder) if kind == "plain" else select_in(folder, evidence=kind))


def made_set(million: int) -> Path:
    """A custom set of so many million tokens, made unless it is there."""
    folder = MADE / f"select-{million}"
    if not (folder / "whole").exists():
        shutil.rmtree(folder, ignore_errors=True)
        if million <= MILLION_AT_ONCE:
            made.write_tokens(folder / "data/custom.parquet", 10_000 * million)
            made.write_scores(folder)
        else:
            made.repeat(made_set(MILLION_AT_ONCE), folder, million // MILLION_AT_ONCE)
        (folder / "whole").touch()
    return folder


def section(results: dict[str, Any]) -> str:
    """The page's section."""
    sizes = results["settings"]["million"]
    lines = [
        "## Selection, from parts to the mask",
        "",
        "`python -m benchmarks.select_stage`: score parts of 1,024 rows, as scoring writes them, in the page cache, "
        "to `keep.parquet`, `selection.json` and, for the posterior, `evidence.parquet`. Each repeat is a process "
        "with its libraries loaded. *Processor s* is what all its threads were busy; *seconds* is what went by, on a "
        "machine that may have had other work. *Plain* reads the same losses and writes a mask of the same shape, "
        f"nothing else; ratios are of processor seconds. Sets of more than {MILLION_AT_ONCE} million tokens are the "
        f"same {MILLION_AT_ONCE} million several times over, by links: disk and page cache hold each part once.",
        "",
        "| tokens | ranked | repeats | processor s (lowest to highest) | seconds | over plain | peak memory, MB |",
        "|---|---|---|---|---|---|---|",
    ]
    for million in (size for size in sizes if _is_measured(results, size)):
        floor = _of(results, million, "plain", "cpu_seconds")
        for kind in KINDS:
            cpu, wall = (_of(results, million, kind, key) for key in ("cpu_seconds", "seconds"))
            peak = _of(results, million, kind, "peak_mb")
            lines.append(
                f"| {million:,}M | {kind} | {cpu['n']} "
                f"| {cpu['median']:.1f} ({cpu['low']:.1f} to {cpu['high']:.1f}) "
                f"| {wall['median']:.1f} | {cpu['median'] / floor['median']:.1f} | {peak['high']:.0f} |"
            )
    lacks = lacking(results, _names(results))
    return "\n".join([*lines, "", *_bars(results, lacks), "", provenance_told(results, lacks)])


def _names(results: dict[str, Any]) -> list[str]:
    """Of all cases that the settings mean."""
    sizes = results["settings"]["million"]
    repeats = results["settings"].get("repeats", [SIZES.get(million, REPEATS) for million in sizes])
    return [
        f"{million}M {kind} {repeat}"
        for million, times in zip(sizes, repeats, strict=True)
        for kind in KINDS
        for repeat in range(times)
    ]


def _of(results: dict[str, Any], million: int, kind: str, key: str) -> dict[str, float]:
    cases = results["cases"]
    return spread([case[key] for name, case in cases.items() if name.startswith(f"{million}M {kind} ")])


def _is_measured(results: dict[str, Any], million: int) -> bool:
    return all(any(name.startswith(f"{million}M {kind} ") for name in results["cases"]) for kind in KINDS)


def _bars(results: dict[str, Any], lacks: str) -> list[str]:
    sizes = [size for size in results["settings"]["million"] if _is_measured(results, size)]
    told = []
    for kind, bar in BARS.items():
        name = f"- {kind}, 100 million tokens within {bar:g} s on two cores"
        if 100 not in sizes:
            told.append(f"{name}: not measured yet.")
            continue
        cpu, wall = (_of(results, 100, kind, key)["median"] for key in ("cpu_seconds", "seconds"))
        judged = verdict(wall <= bar, lacks, "not met by the clock")
        told.append(f"{name}: {judged} ({wall:.1f} s went by, the process was busy for {cpu:.1f} s).")
    repeats = {size: min(_of(results, size, kind, "seconds")["n"] for kind in KINDS) for size in sizes}
    few = [f"{count:.0f} of {size:,} million tokens" for size, count in repeats.items() if count < REPEATS]
    if few:
        told.append(f"- Repeats, where there are fewer than {REPEATS}, too few for a spread: {', '.join(few)}.")
    for kind in BARS if sizes else ():
        peaks = {size: _of(results, size, kind, "peak_mb")["high"] for size in sorted(sizes)}
        judged = verdict(peaks[max(sizes)] <= LIMIT * peaks[min(sizes)], lacks)
        told.append(
            f"- {kind}, constant memory: {judged} ("
            + ", ".join(f"{peak:.0f} MB for {size:,}" for size, peak in peaks.items())
            + f" million tokens; {LIMIT - 1:.0%} more are allowed from the fewest to the most)."
        )
    return told


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--million", type=int, nargs="+", default=list(SIZES), help="tokens, in millions")
    parser.add_argument("--repeats", type=int, nargs="+", help="one for all sizes, or one a size")
    parser.add_argument("--keep", action="store_true", help="leave the made sets for other calls, for good")
    parser.add_argument("--one", nargs=2, metavar=("FOLDER", "KIND"), help="measure one, in this process")
    args = parser.parse_args()
    if args.one:
        print(json.dumps(one(Path(args.one[0]), args.one[1])))
        return
    repeats = args.repeats or [SIZES.get(million, REPEATS) for million in args.million]
    repeats = repeats * len(args.million) if len(repeats) == 1 else repeats
    settings = {"million": args.million, "repeats": repeats}
    results = Results(NAME, settings, folder_of(parser, args))
    for million, times in zip(args.million, repeats, strict=True):
        folder = made_set(million) if times else MADE
        for repeat in range(times):
            for kind in KINDS:
                results.measure(f"{million}M {kind} {repeat}", partial(in_process, NAME, folder, kind))
    for folder in MADE.glob("select-*"):
        if args.keep:
            (folder / KEPT).touch()
        elif not (folder / KEPT).exists():
            shutil.rmtree(folder)


if __name__ == "__main__":
    main()
