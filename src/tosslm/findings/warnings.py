"""What a reader should know before trusting a run: said at its end, in the manifest, for machines, in the report."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from tosslm.findings.apart import seen_told, shared_told
from tosslm.findings.decided import decided_warnings
from tosslm.findings.found import far_from_found, found_by, threshold_told
from tosslm.findings.own_utility import own_utility_warnings
from tosslm.findings.proxied import proxy_warnings
from tosslm.findings.served import served_warnings
from tosslm.findings.warmed import warmup_warnings
from tosslm.runs.layout import DIAGNOSIS, EVALUATION, HELDOUT, MODEL, SELECTION, evaluation
from tosslm.runs.reader import Run
from tosslm.runs.tables import each_once, stored_rows


def run_warnings(run: Run) -> list[str]:
    """What a reader should know before trusting the run."""
    found: list[str] = list(run.stages.get("data", {}).get("template_told", ()))
    kept = (SELECTION, MODEL, f"{EVALUATION}/", DIAGNOSIS)
    if doubted := [name for name in run.manifest.get("unsettled", ()) if name.startswith(kept)]:
        found.append(
            f"Of another config: {', '.join(doubted)}, made before the config was changed and not looked at since."
        )
    if run.layout.overrides.exists() and run.config.selection.overrides is None:
        found.append(
            f"{run.layout.overrides} has decisions that selection.overrides does not name, so they are not heeded."
        )
    if run.has(SELECTION) and run.decided_since():
        found.append(f"{run.config.selection.overrides} has other decisions than the selection went by.")
    for name, counts in run.stages.get("data", {}).get("sets", {}).items():
        if counts["bad"]:
            found.append(f"{counts['bad']:,} bad rows of the {name} set were left out; data/bad_rows.jsonl says why.")
        if counts["truncated"]:
            found.append(f"{counts['truncated']:,} of {counts['rows']:,} {name} rows were cut to data.max_length.")
        if told := rewritten(name, counts):
            found.append(told)
        if counts["repeated"]:
            once = "" if name == "custom" else " Held out, each content counts once."
            found.append(f"{counts['repeated']:,} {name} rows repeat another one's content.{once}")
    found += shared_told(run.stages.get("data", {}).get("shared", {}))
    found += seen_told(run.stages.get(evaluation(MODEL), {}).get("prompts_seen", {}))
    found += warmup_warnings(run.config, run.own_stages)
    if (unsafe := found_by(run)) is not None:
        selection = run.stages[SELECTION]
        dropped = selection["discarded"] / selection["tokens"]
        found += threshold_told(selection) if "auto" in selection else far_from_found(unsafe, dropped)
    if run.has(SELECTION):
        found += decided_warnings(run.stages[SELECTION]) + _all_or_nothing(run)
    if run.scored:
        found += proxy_warnings(run.config, run.stages)
        found += own_utility_warnings(run.config, run.stages)
        found += served_warnings(run.config, run.stages)
    return found + (_weak_references(run) if run.scored else [])


def _all_or_nothing(run: Run) -> list[str]:
    """That a share is so small that it drops nothing, or so large that hardly a token a row is left."""
    selection, rows = run.stages[SELECTION], run.stages["data"]["sets"]["custom"]["rows"]
    dropped, tokens, d = selection["discarded"], selection["tokens"], run.config.selection.discard_fraction
    by_share = not isinstance(d, str) and d > 0 and not {"method", "overrides"} & set(selection)
    if not dropped and by_share:
        return [f"Nothing is dropped: {d:g} of {tokens:,} tokens, or of a row's, is less than one. Raise the share."]
    if 0 < tokens - dropped < rows:
        return [f"Hardly anything trains: of {tokens:,} tokens in {rows:,} rows {tokens - dropped:,} are kept."]
    return []


def rewritten(name: str, counts: Mapping[str, Any]) -> str | None:
    """That the chat template changes texts of a set, where it does; folders of old do not say."""
    if not counts.get("rewritten"):
        return None
    return (
        f"{counts['rewritten']:,} of {counts['rows']:,} {name} rows have a turn of which the chat template drops or "
        f"rewrites text (an answer's thinking block, say), the first at {counts['first_rewritten']}: the model does "
        "not see that text as the file has it."
    )


def _weak_references(run: Run) -> list[str]:
    rows = list(each_once(stored_rows(run.scores_folder() / HELDOUT)))
    harmful = np.array([row["set"] == "harmful" for row in rows])
    if len(set(harmful.tolist())) < 2:
        return ["No held-out rows in one of the reference sets: how good the references are is not known."]
    degraded, utility = (np.array([np.mean(row[f"loss_{name}"]) for row in rows]) for name in ("degraded", "utility"))
    found = []
    if degraded[harmful].mean() >= utility[harmful].mean():
        found.append("Weak degraded reference: on held-out harmful rows it is no better than the utility reference.")
    if utility[~harmful].mean() >= degraded[~harmful].mean():
        found.append("Weak utility reference: on held-out utility rows it is no better than the degraded reference.")
    from sklearn.metrics import roc_auc_score

    quality = float(roc_auc_score(harmful, utility - degraded))
    if quality < 0.8:
        told = f"a row's mean score tells held-out harmful from utility rows with AUROC {quality:.2f}"
        found.append(f"Weak references: {told}.")
    return found
