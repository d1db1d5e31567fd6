"""What evaluation and comparison measured that is true of a run as it is now."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tosslm.runs.folder import RunFolder
from tosslm.runs.layout import evaluation, evaluation_at
from tosslm.runs.reader import Run
from tosslm.runs.results import measured_prints, read_record, read_scaled

COMPARED, EVALUATED = "compare/results.json", "evaluation/results.json"
COMPARED_CURVES = ("compare/diagnosis/diagnosis.json", "compare/diagnosis/positions.parquet")
SHOWN_FILES = (COMPARED, EVALUATED, *COMPARED_CURVES)
"""What a report shows beside the run's own steps: a change of it is a reason to make the report anew."""
PLAIN = "sft"
"""The method that is plain fine-tuning."""
_BASE, _MODEL = "base", "model"
_OF_DROPPED = ("dropped", "anchor_weight", "anchor_first", "anchor_normalize")
_HOW_IT_RUNS = ("micro_batch_size", "gradient_checkpointing", "checkpoint_steps")
"""Keys of ``finetune`` that change kept tokens' learning by rounding at most."""


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
    compared, variants = _compared(run)
    asked = [r for r in compared if (its := variants.get(r["method"])) and _asked_the_same(run, its)]
    is_evaluated = run.holds(evaluation(_MODEL))
    among = asked if is_evaluated else compared
    own = next((m for r in among if (m := r["method"]) in variants and _trained_alike(run, variants[m])), None)
    plain = PLAIN if has_plain(run) and any(r["method"] == PLAIN for r in among) else None
    if own is None and is_evaluated:
        others = [record for record in asked if record["method"] != _BASE]  # which the run has measured itself
        return Measured([*evaluated(run), *others], _MODEL, plain)
    return Measured(compared, own, plain)


def evaluated(run: Run) -> list[dict[str, Any]]:
    """The records of a run's own evaluation, of base, model and further scales, that hold for the run as it is."""
    folders = [run.layout.of(step) for step in (evaluation(_BASE), evaluation(_MODEL)) if run.holds(step)]
    own = [read_record(folder) for folder in folders if (folder / "record.json").is_file()]
    scales = [scale for scale in run.config.evaluation.scales if run.holds(evaluation_at(scale))]
    return [*own, *read_scaled(run.layout, scales)]


def _compared(run: Run) -> tuple[list[dict[str, Any]], dict[str, RunFolder]]:
    """The comparison's records that are of what its folders hold now, and the folders by method.

    A comparison that was broken off has made some folders anew and left its records.
    """
    path = run.path / COMPARED
    known = json.loads(path.read_text(encoding="utf-8")).get("prints", {}) if path.is_file() else {}
    records: list[dict[str, Any]] = []
    folders: dict[str, RunFolder] = {}
    for record in _records(path):
        method = record["method"]
        folder = _variant(run, method, run.config.seed)
        seeds = known.get(method, {})  # earlier versions wrote none
        others = {seed: _variant(run, method, int(seed) if seed.isdecimal() else 0) for seed in seeds}
        if all(other and seeds[seed] == measured_prints(other) for seed, other in others.items()):
            records.append(record)
            folders |= {method: folder} if folder else {}
    return records, folders


def has_plain(run: Run) -> bool:
    """Whether a comparison has fine-tuned the run's base on the run's data, as both are now, by plain fine-tuning.

    That is with the run's own settings of ``finetune``, but for what becomes of dropped tokens.
    """
    folder = _variant(run, PLAIN, run.config.seed)
    return folder is not None and _same_data(run, folder) and _same_training(run, folder)


def _records(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        return []
    results = json.loads(path.read_text(encoding="utf-8"))
    return results.get("summary") or results["records"]


def _variant(run: Run, method: str, seed: int) -> RunFolder | None:
    """The folder of a compared method's run with a seed; the base has none."""
    path = run.layout.method(method, None if method == _BASE else seed)
    return RunFolder(path) if (path / "manifest.json").is_file() else None


def _trained_alike(run: Run, variant: RunFolder) -> bool:
    own, its = (folder.stages.get("model", {}).get("fingerprint") for folder in (run.folder, variant))
    return run.has("model") and own == its


def _same_data(run: Run, variant: RunFolder) -> bool:
    own, its = (folder.stages.get("data", {}).get("fingerprint") for folder in (run.folder, variant))
    return own == its and run.manifest["config"]["model"] == variant.manifest["config"]["model"]


def _same_training(run: Run, variant: RunFolder) -> bool:
    own, its = (dict(one.manifest["config"]["finetune"]) for one in (run, variant))
    return all(own[key] == its.get(key) for key in own if key not in (*_OF_DROPPED, *_HOW_IT_RUNS))


def _asked_the_same(run: Run, variant: RunFolder) -> bool:
    steps = (evaluation(_MODEL), evaluation(_BASE))
    asked, its_asked = (
        next((one.stages[step].get("asked") for step in steps if step in one.stages), None) for one in (run, variant)
    )
    if run.holds(evaluation(_MODEL)) and asked and its_asked:
        return bool(asked == its_asked)
    own, its = (dict(one.manifest["config"]["evaluation"]) for one in (run, variant))
    own.pop("scales", None), its.pop("scales", None)  # which change nothing of what is asked
    return own == its
