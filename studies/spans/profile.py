"""Why posterior evidence is better or worse than single tokens: its precision along the length of unsafe runs.

The chain that EM learns is replaced by chains of the same unsafe share and other run lengths, ``1 / leave`` tokens.
None of them could be chosen without the marks; they show how far what was learnt is from what the marks ask for.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from studies.spans.settings import ROOT, corpus_of

import tosslm
from tosslm.characters import unsafe_tokens
from tosslm.files import write_json
from tosslm.findings.spans import ranking_quality
from tosslm.selection.chain import Chain, passes

RUN_LENGTHS = (1.1, 1.4, 2.0, 3.0, 5.0, 10.0, 20.0, 50.0)


def judged_tokens(corpus: str, rows: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Whether each response token is judged and whether it is marked, bool ``[N]``, and the rows' lengths ``[R]``."""
    judged = corpus_of(corpus).judged
    marks = [unsafe_tokens(row["offsets"], row["unsafe_spans"]) for row in rows]
    lengths = np.array([len(row) for row in marks])
    wanted = np.array([judged is None or source in judged for source in rows["source"]])
    return np.repeat(wanted, lengths), np.concatenate(marks), lengths


def profile(corpus: str, seed: int) -> None:
    """Write the average precision of each run length beside the results of a run."""
    folder = ROOT / corpus / f"seed-{seed}"
    out = folder / "run_lengths.json"
    if out.exists() or not (folder / "quality.npz").exists():
        return
    run = tosslm.load_run(folder / "run")
    learnt = json.loads(run.layout.evidence_facts.read_text(encoding="utf-8"))
    scores = np.concatenate(run.scores())
    evidence = np.interp(scores.astype(np.float64), learnt["held_out"]["knots"], learnt["held_out"]["log_ratios"])
    judged, unsafe, lengths = judged_tokens(corpus, run.rows)
    share = learnt["unsafe_share"]
    found = {}
    for length in RUN_LENGTHS:
        leave = min(1 / length, 0.999 * (1 - share) / share)  # both probabilities stay below 1
        filtered, ahead = passes(evidence, lengths, Chain(leave * share / (1 - share), leave))
        found[str(length)] = ranking_quality(unsafe[judged], (filtered + ahead)[judged])["average_precision"]
    write_json(out, found)
