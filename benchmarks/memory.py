"""Peak memory of the stages that are to hold no more for more rows, each in a process of its own.

    python -m benchmarks.memory                          # 1,000 to 1,000,000 made rows: hours
    python -m benchmarks.memory --rows 1000 10000
    python -m benchmarks.memory --stage data select-token

Rows are made, of about 100 response tokens, and tokenised by the data stage with the built-in model's tokenizer; the
scores are made too, so no model reads anything. The references' sets stay at 200 rows.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parents[1] / "tests"))

from benchmarks import made
from benchmarks.measuring import MADE, Results, in_process, measured, parser_of, provenance_told
from benchmarks.select_stage import LIMIT

from support.benches import select_in
from tosslm.files import write_json

NAME = "memory"
FACTS = "facts.json"


def _config(folder: Path) -> dict[str, Any]:
    sets = {name: {"path": str(folder / f"{name}.jsonl")} for name in ("custom", "harmful", "utility")}
    return {"run_dir": str(folder / "run"), "data": sets, "model": {"device": "cpu", "dtype": "float32"}}


def _data(folder: Path) -> None:
    from tosslm import pipeline
    from tosslm.config import load_config
    from tosslm.methods import settled
    from tosslm.progress import SilentReporter

    config, method = settled(load_config(_config(folder)))
    every = pipeline.steps(config, method)
    bench = pipeline.workbench(config, SilentReporter())
    pipeline.carry_out([step for step in every if step.stage == "data"], bench, every=every)


def _select(evidence: str) -> Callable[[Path], None]:
    def work(folder: Path) -> None:
        write_json(folder / FACTS, select_in(folder / "run", evidence=evidence))

    return work


def _export(kind: str) -> Callable[[Path], None]:
    def work(folder: Path) -> None:
        import tosslm
        from tosslm.export.handing import export_run

        shutil.rmtree(folder / kind, ignore_errors=True)
        export_run(tosslm.load_run(folder / "run"), kind, folder / kind)

    return work


def _inspect(folder: Path) -> None:
    from tosslm.inspection.inspect import inspect

    inspect(str(folder / "parquet/data.parquet"))


def _report(folder: Path) -> None:
    import tosslm
    from tosslm.report.page import write_report

    write_report(tosslm.load_run(folder / "run"), folder / "report.html")


def _summary(folder: Path) -> None:
    import tosslm
    from tosslm.findings.summary import summarize

    summarize(tosslm.load_run(folder / "run"))


STAGES: dict[str, Callable[[Path], None]] = {
    "data": _data,
    "select-posterior": _select("posterior"),
    "select-token": _select("token"),
    "export-parquet": _export("parquet"),
    "export-llamafactory": _export("llamafactory"),
    "inspect": _inspect,
    "summary": _summary,
    "report": _report,
}
"""In an order in which each finds what it reads."""
GROWS = {
    "select-posterior": "up to the 2 million tokens of the set that its chain is learnt on, and no further",
    "report": "it ranks all tokens, and draws from all of them: about 30 bytes a token while it is made",
}
"""Stages that are known to grow, and why."""


def one(folder: Path, stage: str) -> dict[str, float]:
    """Measure one stage in this process, libraries and all, and make what the next one reads."""
    found = measured(lambda: STAGES[stage](folder))
    run = folder / "run"
    if stage == "data":
        made.write_scores(run)
    if stage.startswith("select"):
        facts = json.loads((folder / FACTS).read_text(encoding="utf-8"))
        made.write_manifest(run, _config(folder), facts)
    return found


def made_rows(rows: int) -> Path:
    """The three sets as JSON Lines, made unless they are there."""
    folder = MADE / f"rows-{rows}"
    for name, count, seed in (("custom", rows, 0), ("harmful", 200, 1), ("utility", 200, 2)):
        if not (folder / f"{name}.jsonl").exists():
            made.write_jsonl(folder / f"{name}.jsonl", count, seed)
    return folder


def section(results: dict[str, Any]) -> str:
    """The page's section."""
    sizes, cases = results["settings"]["rows"], results["cases"]
    head = " | ".join(f"{rows:,} rows" for rows in sizes)
    lines = [
        "## Memory",
        "",
        "`python -m benchmarks.memory`: the peak resident memory of a process that does one stage, in MB, on made "
        "rows of about 100 response tokens; most of it are libraries. In brackets, seconds of a processor. A "
        "stage counts as constant where the peak of the largest set measured is at most a tenth above that of the "
        "smallest.",
        "",
        f"| stage | {head} | constant |",
        "|---|" + "---|" * (len(sizes) + 1),
    ]
    for stage in STAGES:
        own = [cases.get(f"{stage} {rows}") for rows in sizes]
        there = [case["peak_mb"] for case in own if case]
        if len(there) < 2:
            continue
        cells = [f"{case['peak_mb']:.0f} ({case['cpu_seconds']:.0f})" if case else "-" for case in own]
        grown = there[-1] / there[0]
        verdict = (
            "yes" if grown <= LIMIT else f"no, {grown:.1f} times" + (f": {GROWS[stage]}" if stage in GROWS else "")
        )
        lines.append(f"| {stage} | {' | '.join(cells)} | {verdict} |")
    return "\n".join([*lines, "", provenance_told(results)])


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--rows", type=int, nargs="+", default=[1000, 10_000, 100_000, 1_000_000])
    parser.add_argument("--stage", nargs="+", choices=list(STAGES), default=list(STAGES))
    parser.add_argument("--one", nargs=2, metavar=("FOLDER", "STAGE"), help="measure one, in this process")
    args = parser.parse_args()
    if args.one:
        print(json.dumps(one(Path(args.one[0]), args.one[1])))
        return
    results = Results(NAME, {"rows": args.rows, "tokens_a_row": 100})
    for rows in args.rows:
        folder = made_rows(rows)
        for stage in args.stage:
            results.measure(f"{stage} {rows}", partial(in_process, NAME, folder, stage))
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
