"""What a run did, in numbers and sentences: for the tables at its end, and for machines."""

from __future__ import annotations

from itertools import repeat
from typing import Any

import numpy as np

from tosslm.characters import unsafe_tokens
from tosslm.findings import story
from tosslm.findings.diagnosed import read_diagnosis
from tosslm.findings.measured import evaluated, read_measured
from tosslm.findings.sentence import Sentence
from tosslm.findings.spans import tallied
from tosslm.findings.warnings import run_warnings
from tosslm.runs import layout
from tosslm.runs.column import Column
from tosslm.runs.reader import Run
from tosslm.runs.tables import read_keep, stored_rows


def summarize(run: Run) -> dict[str, Any]:
    """Method, rows, tokens, dropped tokens per source, threshold, losses, warnings, and where things are."""
    stages = run.own_stages
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
        summary["evaluation"] = evaluated(run)
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
    unsafe, ranked = Column(run.path, bool), Column(run.path, np.float32)
    counts = np.zeros((2, 2), dtype=np.int64)  # [unsafe, dropped]
    rows = stored_rows(run.layout.rows("custom"), ["offsets", "unsafe_spans"])
    masks = (keep for _, keep in read_keep(run.layout.keep))
    evidence = run.iter_evidence() if run.scored else repeat(None)
    for row, keep, own in zip(rows, masks, evidence, strict=run.scored):
        if row["unsafe_spans"] is None:
            continue
        marked = unsafe_tokens(row["offsets"], row["unsafe_spans"])
        counts += np.bincount(2 * marked + ~keep, minlength=4).reshape(2, 2)
        unsafe.append(marked)
        if own is not None:
            ranked.append(own)
    if not counts.sum(axis=1).all():
        return None
    (safe_kept, safe_dropped), (kept, dropped) = counts.tolist()
    shares = {
        "unsafe_share": (kept + dropped) / len(unsafe),
        "unsafe_dropped": dropped / (kept + dropped),
        "safe_dropped": safe_dropped / (safe_kept + safe_dropped),
    }
    return (
        tallied(lambda: zip(unsafe.parts(), ranked.parts(), strict=True)).quality() | shares if run.scored else shares
    )
