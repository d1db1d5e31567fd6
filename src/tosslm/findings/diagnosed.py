"""The diagnosis of a run, with plain fine-tuning beside it where a comparison has measured that."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tosslm.findings.measured import PLAIN, has_plain
from tosslm.runs import layout
from tosslm.runs.reader import Run
from tosslm.runs.tables import stored_rows


def read_diagnosis(run: Run) -> dict[str, Any] | None:
    """The diagnosis, where it is done and still true; its ``means`` tell of plain fine-tuning where that is known."""
    if not run.has(layout.DIAGNOSIS):
        return None
    own = _facts(run.layout.diagnosis)
    if not beside(run, own):
        return own
    means = {name: dict(models) for name, models in own["means"].items()}
    for name, models in _facts(run.layout.compared_curves)["means"].items():
        means.setdefault(name, {})[PLAIN] = models[PLAIN]
    return own | {"means": means}


def curve_records(run: Run, diagnosis: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Each measure of each model by position, as ``runs.tables.POSITIONS_SCHEMA`` has it."""
    records = list(stored_rows(run.layout.diagnosis / "positions.parquet"))
    if beside(run, diagnosis):
        compared = stored_rows(run.layout.compared_curves / "positions.parquet")
        records += [record for record in compared if record["model"] == PLAIN]
    return records


def beside(run: Run, diagnosis: Mapping[str, Any]) -> bool:
    """Whether plain fine-tuning, as a comparison measured it, belongs beside the run's own diagnosis.

    It does where it was measured on this run's rows and against this run's degraded reference, on this run's data and
    base; an adapter of that name that the user's config brings comes first.
    """
    folder = run.layout.compared_curves
    if PLAIN in diagnosis["adapters"] or not (folder / "diagnosis.json").is_file() or not has_plain(run):
        return False
    inputs = _facts(folder)["inputs"]
    return all(run.has(name) and run.folder.print_of(name) == known for name, known in inputs.items())


def _facts(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "diagnosis.json").read_text(encoding="utf-8"))
    return found
