"""What is measured of memory: each stage and command that reads rows, as a call on a folder of made rows.

They come in an order in which each finds what it reads, and are run in processes of their own.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from benchmarks import made
from benchmarks.tiny import tiny_model

from support.benches import bench_of, mark_of, select_in
from tosslm.files import sha256, write_json
from tosslm.progress import SilentReporter
from tosslm.runs.layout import SETS

FACTS = "facts.json"
ALL, SOME = 1_000_000, 100_000
"""Most rows that a stage is measured on: ``SOME`` where it reads row by row in Python, or runs a model."""
Work = Callable[[Path], None]


@dataclass(frozen=True, slots=True)
class Measured:
    """A stage to measure.

    Attributes:
        name: of its line.
        work: what is measured; is given the folder with the made sets, whose run is ``run``.
        most: rows that it is measured on at most.
        grows: why it does, where that is known of the code as it is.
    """

    name: str
    work: Work
    most: int = ALL
    grows: str = ""


def config_of(folder: Path, run: str = "run") -> dict[str, Any]:
    """The config of a run of made rows."""
    sets = {name: {"path": str(folder / f"{name}.jsonl")} for name in SETS}
    model = {"name": str(folder.parent / "tiny"), "device": "cpu", "dtype": "float32"}
    return {"run_dir": str(folder / run), "data": sets, "model": model, "references": {"epochs": 1}}


def _stages(*stages: str, run: str = "run") -> Work:
    """The steps of stages, those before them done."""

    def work(folder: Path) -> None:
        from tosslm import pipeline
        from tosslm.config import load_config
        from tosslm.methods import settled

        config, method = settled(load_config(config_of(folder, run)))
        every = pipeline.steps(config, method)
        bench = pipeline.workbench(config, SilentReporter())
        pipeline.carry_out([step for step in every if step.stage in stages], bench, every=every)

    return work


def _plan(folder: Path) -> None:
    from tosslm.config import load_config
    from tosslm.plan import make_plan

    make_plan(load_config(config_of(folder)), measure=False, reporter=SilentReporter())


def _select(**selection: Any) -> Work:
    def work(folder: Path) -> None:
        facts = select_in(folder / "run", fingerprint=made.FINGERPRINT, **selection)
        write_json(folder / FACTS, facts)

    return work


def _method(name: str) -> Work:
    def work(folder: Path) -> None:
        from tosslm.methods import registry
        from tosslm.stages.choose import choose

        bench = bench_of(folder / "run")
        write_json(folder / FACTS, dict(choose(bench, mark_of(folder / "run", "selection"), registry()[name])))

    return work


def _join(folder: Path) -> None:
    from tosslm.stages.refine import joining_step

    run = folder / "run"
    joining_step(1).work(bench_of(run), mark_of(run, "refinement/round-1"))
    shutil.rmtree(run / "refinement")  # so that the run stays one of round 0


def _export(kind: str) -> Work:
    def work(folder: Path) -> None:
        import tosslm
        from tosslm.export.handing import export_run

        export_run(tosslm.load_run(folder / "run"), kind, folder / f"export-{kind}")

    return work


def _transfer(folder: Path) -> None:
    import tosslm
    from tosslm.transfer import transfer

    transfer(tosslm.load_run(folder / "run"), folder / "transferred", tokenizer="builtin:smollm2-135m-instruct")


def _inspect(folder: Path) -> None:
    from tosslm.inspection.inspect import inspect

    inspect(str(folder / "export-parquet/data.parquet"))


def _summary(folder: Path) -> None:
    import tosslm
    from tosslm.findings.summary import summarize

    summarize(tosslm.load_run(folder / "run"))


def _show_list(folder: Path) -> None:
    import tosslm
    from tosslm.findings.rows import riskiest_rows

    riskiest_rows(tosslm.load_run(folder / "run"))


def _show_row(folder: Path) -> None:
    import tosslm
    from tosslm.findings.rows import row_record
    from tosslm.runs.tables import stored_rows

    run = tosslm.load_run(folder / "run")
    first = next(islice(stored_rows(run.layout.rows("custom"), ["row_id"]), 1))
    row_record(run, first["row_id"])


def _report(folder: Path) -> None:
    import tosslm
    from tosslm.report.page import write_report

    write_report(tosslm.load_run(folder / "run"), folder / "report.html")


def _review(folder: Path) -> None:
    import tosslm
    from tosslm.review import open_review

    open_review(tosslm.load_run(folder / "run"), file=folder / "decisions.jsonl").html()


def _verify(folder: Path) -> None:
    import tosslm
    from tosslm.runs.verify import verify

    checked, findings = verify(tosslm.load_run(folder / "run"))
    if findings or not checked:
        raise SystemExit(f"{checked} files checked; {findings}")


_STREAMED = ("llamafactory", "megatron", "swift", "olmo", "openai", "axolotl", "tinker")

MEASURED = (
    Measured("data", _stages("data", run="read")),
    Measured("plan", _plan, SOME),
    Measured("score", _stages("score")),
    Measured("method random", _method("random"), SOME, "a permutation of all tokens, and a few numbers a row"),
    Measured("method dsir", _method("dsir"), SOME, "a few numbers a row and a byte a token, while texts stream"),
    Measured("method first-k", _method("first-k"), SOME),
    Measured("method rows", _method("rows"), SOME, "a few numbers a row and a byte a token"),
    Measured("select, in rows", _select(scope="row"), SOME),
    Measured(
        "select, posterior",
        _select(evidence="posterior"),
        grows="up to the 2 million tokens of the set that its chain is learnt on, and no further",
    ),
    Measured("select, token", _select(evidence="token")),
    Measured("refine: rows that join", _join),
    Measured("export parquet", _export("parquet")),
    *(Measured(f"export {kind}", _export(kind), SOME) for kind in _STREAMED),
    Measured("transfer", _transfer, SOME),
    Measured("inspect", _inspect),
    Measured("summary", _summary),
    Measured("show, the riskiest rows", _show_list),
    Measured("show, one row", _show_row),
    Measured("verify", _verify),
    Measured("report", _report),
    Measured("review", _review),
)
"""In an order in which each finds what it reads."""
BY_NAME = {one.name: one for one in MEASURED}
_STREAMED_SINCE = (
    "measured before methods were read part by part, figures since are "
    "[below](#what-is-not-constant-in-the-number-of-rows)"
)
BEFORE = {
    "method random": _STREAMED_SINCE,
    "method dsir": _STREAMED_SINCE,
    "export megatron": "measured when 1,024 packs of 4,096 tokens were held to be written together; of 64, as now, "
    "650 and 651 MB of 10,000 and 100,000 rows",
}
"""What is said of results that have no reasons with them, since they are of code of before that."""


def outputs(folder: Path, name: str) -> list[Path]:
    """The folders that a stage writes; what ``select`` and methods write is one."""
    kind = name.split()[0].rstrip(",:")
    own = {
        "data": "read",
        "score": "run/scores",
        "method": "run/selection",
        "select": "run/selection",
        "refine": "run/refinement",
        "export": name.replace(" ", "-"),
        "transfer": "transferred",
    }
    return [folder / own[kind]] if kind in own else []


def finish(folder: Path, name: str) -> None:
    """Make what the next stages read beside what this one wrote, and remove what nobody reads any more."""
    if name == "score":
        made.write_scores(folder / "run")
        made.write_manifest(folder / "run", config_of(folder))
    elif name.startswith("select"):
        facts = json.loads((folder / FACTS).read_text(encoding="utf-8"))
        made.write_manifest(folder / "run", config_of(folder), facts)
    elif name in ("data", "transfer") or (name.startswith("export") and name != "export parquet"):
        for path in outputs(folder, name):
            shutil.rmtree(path)


def base(folder: Path) -> None:
    """The model, and a run of 1,000 rows that is done up to its references; made unless it is there."""
    tiny_model(folder.parent / "tiny")
    if not (folder / "run/references").exists():
        write_sets(folder, 1000)
        _stages("data", "references")(folder)


def made_sets(folder: Path, rows: int) -> None:
    """A run whose custom set is that of ``base`` over and over."""
    first, run = folder.parent / "base", folder / "run"
    shutil.copytree(first / "run", run)
    manifest = json.loads((run / "manifest.json").read_text(encoding="utf-8"))
    data = manifest["stages"]["data"]
    custom = run / "data/custom.parquet"
    made.copies(first / "run/data/custom.parquet", custom, rows, data["fingerprint"])
    data["files"]["data/custom.parquet"] = sha256(custom)
    data["sets"]["custom"]["rows"] = rows
    for entry in manifest["stages"].values():
        entry["inputs"] = {}  # the references stay current, though they saw other data
    write_json(run / "manifest.json", manifest)


def write_sets(folder: Path, rows: int) -> None:
    """The three sets as JSON Lines."""
    for name, count, seed in zip(SETS, (rows, 200, 200), range(3), strict=True):
        some = made.conversations(count, seed, words_of=(8, 23), mark_every=10)
        made.write_jsonl(folder / f"{name}.jsonl", some)
