"""The report stage: all of it in one file to look at."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tosslm.config import Config
from tosslm.files import sha256
from tosslm.findings.measured import SHOWN_FILES
from tosslm.methods.method import Method
from tosslm.runs.layout import REPORT
from tosslm.runs.reader import Run
from tosslm.runs.recorded import Mark
from tosslm.stages.step import Facts, Stage, Step
from tosslm.workbench import Workbench


def _steps(config: Config, method: Method, before: Sequence[Step]) -> list[Step]:
    return [report_step(before)] if method.trains else []


STAGE = Stage("report", ("report.html",), _steps)


def report_step(before: Sequence[Step]) -> Step:
    """One HTML file of what the steps before it left, and of what evaluation and comparison measured.

    It is the one stage that shows what a later command may have left: its fingerprint covers those files, and no
    other step reads the report.

    Args:
        before: the other steps of the run.
    """
    reads = tuple(step.name for step in before if step.stage != "evaluate")
    return Step(
        REPORT,
        "report",
        1,
        reads,
        _write,
        _covers,
        ("report.html",),
    )


def _write(bench: Workbench, mark: Mark) -> Facts:
    from tosslm.report.page import write_report

    return write_report(Run(bench.layout.root), bench.layout.report)


def _covers(bench: Workbench) -> list[Any]:
    from tosslm.report.page import assets_print

    root = bench.layout.root
    shown = {name: sha256(root / name) for name in SHOWN_FILES if (root / name).is_file()}
    return [bench.config.model_dump(exclude={"run_dir"}), bench.base.identity, assets_print(), shown]
