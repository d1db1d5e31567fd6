"""What a run did, in numbers and sentences: for the tables at its end, and for machines."""

from __future__ import annotations

from typing import Any

import numpy as np

from tosslm.characters import unsafe_tokens
from tosslm.findings import story
from tosslm.findings.diagnosed import read_diagnosis
from tosslm.findings.measured import read_measured
from tosslm.findings.sentence import Sentence
from tosslm.findings.spans import ranking_quality
from tosslm.findings.warnings import run_warnings
from tosslm.runs import layout
from tosslm.runs.reader import Run
from tosslm.runs.results import read_results, read_scaled
from tosslm.runs.tables import read_keep, stored_rows


def summarize(run: Run) -> dict[str, Any]:
    """Method, rows, tokens, dropped tokens per source, threshold, losses, warnings, and where things are."""
    rounds = run.config.refinement.rounds
    stages = {
        name: entry
        for name, entry in run.stages.items()
        if run.has(name) and ("round-" not in name or int(name.rpartition("-")[2]) <= rounds)
    }
    summary: dict[str, Any] = {
        "run_dir": run.name,
        "method": run.config.method,
        "sets": stages.get(layout.DATA, {}).get("sets", {}),
    }
    for name in (layout.SELECTION, layout.MODEL):
        if name in stages:
            summary[name] = {k: v for k, v in stages[name].items() if k not in ("files", "losses")}
    summary["trainings"] = {
        name: {key: entry[key] for key in ("steps", "first_loss", "last_loss", "tokens_per_second", "seconds")}
        for name, entry in stages.items()
        if "first_loss" in entry
    }
    summary["refinement"] = {
        name: {key: stages[name][key] for key in ("joined", "samples")}
        for name in stages
        if name.startswith("refinement/")
    }
    if layout.SELECTION in stages:
        if run.scored:
            summary["held_out_losses"] = _held_out_losses(run)
        if spans := _span_quality(run):
            summary["marked_spans"] = spans
        summary["story"] = _story(run)
    summary["warnings"] = run_warnings(run)
    if run.has(layout.REPORT):
        summary["report"] = str(run.layout.report)
    # Where nothing is selected nothing is trained, and the base alone is measured.
    if layout.evaluation("model" if layout.SELECTION in stages else "base") in stages:
        scaled = read_scaled(run.layout, run.config.evaluation.scales)
        summary["evaluation"] = [*read_results(run.layout.results), *scaled]
    summary["seconds"] = {name: entry["seconds"] for name, entry in stages.items()}
    return summary


def _story(run: Run) -> dict[str, Sentence]:
    """The report's sentences."""
    diagnosis, measured = read_diagnosis(run), read_measured(run)
    if diagnosis is None and measured.own is None:
        return {}
    found = {"safety": story.safety(diagnosis, measured), "utility": story.utility(diagnosis, measured)}
    cause = story.causes(diagnosis)
    return found | ({"cause": cause} if cause else {})


def _held_out_losses(run: Run) -> dict[str, dict[str, float]]:
    sums: dict[str, list[float]] = {}
    for row in stored_rows(run.layout.heldout(run.last_round)):
        total = sums.setdefault(row["set"], [0.0, 0.0, 0.0])
        total[0] += len(row["position"])
        total[1] += sum(row["loss_degraded"])
        total[2] += sum(row["loss_utility"])
    return {
        name: {"tokens": int(n), "loss_degraded": degraded / n, "loss_utility": utility / n}
        for name, (n, degraded, utility) in sums.items()
    }


def _span_quality(run: Run) -> dict[str, float] | None:
    """How much of the marked unsafe text is dropped, and how well what was ranked finds it, where there is that."""
    unsafe: list[np.ndarray] = []
    dropped: list[np.ndarray] = []
    marks: list[bool] = []
    rows = stored_rows(run.layout.rows("custom"), ["offsets", "unsafe_spans"])
    for row, (_, keep) in zip(rows, read_keep(run.layout.keep), strict=True):
        marks.append(row["unsafe_spans"] is not None)
        if marks[-1]:
            unsafe.append(unsafe_tokens(row["offsets"], row["unsafe_spans"]))
            dropped.append(~keep)
    if not unsafe or len(np.unique(flat := np.concatenate(unsafe))) < 2:
        return None
    gone = np.concatenate(dropped)
    shares = {
        "unsafe_share": float(np.mean(flat)),
        "unsafe_dropped": float(gone[flat].mean()),
        "safe_dropped": float(gone[~flat].mean()),
    }
    if not run.scored:
        return shares
    ranked = np.concatenate([row for row, marked in zip(run.iter_evidence(), marks, strict=True) if marked])
    return ranking_quality(flat, ranked) | shares
