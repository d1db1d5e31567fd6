"""What evaluation and comparison measured that is true of a run as it is now."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tosslm.runs.folder import RunFolder
from tosslm.runs.reader import Run
from tosslm.runs.results import read_scaled

COMPARED, EVALUATED = "compare/results.json", "evaluation/results.json"
COMPARED_CURVES = ("compare/diagnosis/diagnosis.json", "compare/diagnosis/positions.parquet")
SHOWN_FILES = (COMPARED, EVALUATED, *COMPARED_CURVES)
"""What a report shows beside the run's own steps: a change of it is a reason to make the report anew."""
PLAIN = "sft"
"""The method that is plain fine-tuning."""
_BASE, _MODEL = "base", "model"


@dataclass(frozen=True, slots=True)
class Measured:
    """Records of methods, and which of them a sentence about the run may name.

    Attributes:
        records: one a method, over its seeds, with metrics and their intervals.
        own: name of the method that trained this run's model; None where it was not measured.
        plain: name of plain fine-tuning on the same data; None where it was not measured.
    """

    records: Sequence[Mapping[str, Any]] = ()
    own: str | None = None
    plain: str | None = None

    def among(self, metric: str) -> tuple[Mapping[str, Any] | None, ...]:
        """A metric of the base, of plain fine-tuning and of this run's model, each with its interval."""
        return tuple(self._metric(method, metric) for method in (_BASE, self.plain, self.own))

    def _metric(self, method: str | None, metric: str) -> Mapping[str, Any] | None:
        whole = (r for r in self.records if r["method"] == method and "scale" not in r)
        return next((record["metrics"].get(metric) for record in whole), None)


def read_measured(run: Run) -> Measured:
    """What was measured of a run.

    A comparison may be older than the run's last selection, or of other data: of its methods one counts as the run's
    own only if it was trained as the run's model was, to the fingerprint, and as plain fine-tuning only if its data
    and base are the run's. Beside the run's own evaluation only those count that were asked the same.
    """
    compared = _records(run.path / COMPARED)
    variants = {record["method"]: _variant(run, record["method"]) for record in compared}
    own = next((name for name, folder in variants.items() if folder and _trained_alike(run, folder)), None)
    plain = PLAIN if PLAIN in variants and has_plain(run) else None
    if own is None and run.has(f"evaluation/{_MODEL}"):
        asked = [r for r in compared if (folder := variants[r["method"]]) and _asked_the_same(run, folder)]
        plain = next((r["method"] for r in asked if r["method"] == plain), None)
        scaled = read_scaled(run.layout, run.config.evaluation.scales)
        return Measured([*_records(run.path / EVALUATED), *scaled, *asked], _MODEL, plain)
    return Measured(compared, own, plain)


def has_plain(run: Run) -> bool:
    """Whether a comparison has fine-tuned the run's base on the run's data, as they are now, by plain fine-tuning."""
    folder = _variant(run, PLAIN)
    return folder is not None and _same_data(run, folder)


def _records(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        return []
    results = json.loads(path.read_text(encoding="utf-8"))
    return results.get("summary") or results["records"]


def _variant(run: Run, method: str) -> RunFolder | None:
    """The folder of a compared method's run with this run's seed."""
    path = run.path / "compare" / method / f"seed-{run.config.seed}"
    return RunFolder(path) if (path / "manifest.json").is_file() else None


def _trained_alike(run: Run, variant: RunFolder) -> bool:
    own, its = (folder.stages.get("model", {}).get("fingerprint") for folder in (run.folder, variant))
    return run.has("model") and own == its


def _same_data(run: Run, variant: RunFolder) -> bool:
    own, its = (folder.stages.get("data", {}).get("fingerprint") for folder in (run.folder, variant))
    return own == its and run.manifest["config"]["model"] == variant.manifest["config"]["model"]


def _asked_the_same(run: Run, variant: RunFolder) -> bool:
    own, its = (dict(one.manifest["config"]["evaluation"]) for one in (run, variant))
    own.pop("scales", None), its.pop("scales", None)  # which change nothing of what is asked
    return own == its
