"""What was measured of models: records and their values prompt by prompt, as files."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tosslm.errors import InputError
from tosslm.files import write_json
from tosslm.runs.layout import EVALUATED, EVALUATION, MODEL, Layout, evaluation_at
from tosslm.runs.recorded import Recorded

RESULTS_FORMAT = 1


def write_results(path: Path, records: Sequence[Mapping[str, Any]]) -> None:
    """Write a results file."""
    write_json(path, {"format": RESULTS_FORMAT, "records": list(records)})


def read_results(path: Path) -> list[dict[str, Any]]:
    """The records of a results file.

    Raises:
        InputError: there is none, or it is of another format.
    """
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path}: no results there; name prompts under evaluation in the config") from None
    if results["format"] != RESULTS_FORMAT:
        raise InputError(f"{path}: format {results['format']!r} is not {RESULTS_FORMAT}, which this version reads")
    records: list[dict[str, Any]] = results["records"]
    return records


def measured_prints(folder: Recorded) -> dict[str, str]:
    """What the model and the evaluations of a run folder are known by, to be kept beside what is told of them."""
    return {
        name: folder.print_of(name)
        for name in folder.stages
        if name == MODEL or (name.startswith(f"{EVALUATION}/") and name != EVALUATED)  # of which it is made
    }


def read_scaled(layout: Layout, scales: Iterable[float]) -> list[dict[str, Any]]:
    """The records of a run's model at further scales of its adapter, as far as they were measured."""
    folders = [layout.of(evaluation_at(scale)) for scale in scales]
    return [read_record(folder) for folder in folders if (folder / "record.json").is_file()]


def read_record(folder: Path) -> dict[str, Any]:
    """The record of one model."""
    record: dict[str, Any] = json.loads((folder / "record.json").read_text(encoding="utf-8"))
    return record
