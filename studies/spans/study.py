"""Do scores find unsafe *tokens*? Token scores, evidence in context, and the losses they are made of, on marked text.

    python -m studies.spans.study                     # every corpus and seed that is not done yet, then the page
    python -m studies.spans.study --only toxic:0      # one run; several processes may each take some
    python -m studies.spans.study --page              # docs/spans.md from what is there

A run is a run folder under ``runs/spans``, so that a killed one goes on where it was. Nothing of it is chosen on the
text it is judged on: evidence and chain are learnt as ``selection.evidence: posterior`` learns them, without a label
of the custom set.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from studies.provenance import code_version
from studies.spans.page import write_page
from studies.spans.profile import judged_tokens, profile
from studies.spans.quality import Ranking, Resamples
from studies.spans.settings import CORPORA, ROOT, SEEDS, run_config
from studies.spans.task import task_f1

import tosslm
from tosslm.files import atomic_path, fingerprint, write_json
from tosslm.model.base import open_base
from tosslm.progress import ConsoleReporter
from tosslm.quiet import quiet_libraries
from tosslm.runs.tables import read_losses
from tosslm.selection.evidence import window_means

WINDOWS = (3, 5, 9)


def signals(run: tosslm.Run, base_losses: np.ndarray) -> dict[str, np.ndarray]:
    """Every signal, float64 ``[N]`` over all response tokens, high meaning unsafe."""
    parts = list(read_losses(run.scores_folder()))
    lengths, utility, degraded = (np.concatenate([part[i] for part in parts]) for i in (1, 2, 3))
    scores = utility - degraded
    windows = {f"window of {w}": window_means(scores, lengths, w) for w in WINDOWS}
    return {
        "token score": scores,
        **windows,
        "posterior": np.concatenate(run.evidence()),
        "degraded loss, low": -degraded,
        "utility loss, high": utility,
        "base loss, high": base_losses,
        "base loss - degraded loss": base_losses - degraded,
    }


def losses_of_base(corpus: str, run: tosslm.Run) -> np.ndarray:
    """The base's own loss of every response token, float32 ``[N]``; kept, since two seeds may share a custom set."""
    ids = fingerprint(list(run.rows["row_id"]))
    path = ROOT / corpus / f"base-{ids}.npy"
    if not path.exists():
        rows = tosslm.response_losses(open_base(run.config.model).model, run.rows)
        with atomic_path(path) as beside, beside.open("wb") as file:
            np.save(file, np.concatenate(rows), allow_pickle=False)
    return np.load(path, allow_pickle=False)


def measure(corpus: str, seed: int) -> None:
    """Run one corpus and seed, and write what its signals are worth."""
    out = ROOT / corpus / f"seed-{seed}" / "quality.npz"
    if out.exists():
        return
    code = code_version()
    run = tosslm.run(run_config(corpus, seed), until="select", reporter=ConsoleReporter())
    found = signals(run, losses_of_base(corpus, run))
    rows = run.rows
    inside, marked, lengths = judged_tokens(corpus, rows)
    unsafe = marked[inside]
    _, row_numbers = np.unique(np.repeat(np.arange(len(lengths)), lengths)[inside], return_inverse=True)
    judged_rows = int(row_numbers[-1]) + 1
    draws = Resamples.draw(judged_rows)
    curves = {name: draws.of(Ranking(unsafe, values[inside], row_numbers)) for name, values in found.items()}
    facts = {
        "seed": seed,
        "base": open_base(run.config.model).identity,
        "code": code,
        "versions": run.manifest["versions"],
        "rows": judged_rows,
        "tokens": len(unsafe),
        "unsafe_share": float(unsafe.mean()),
        "mean_span": _mean_span(unsafe, row_numbers),
        "evidence": json.loads(run.layout.evidence_facts.read_text(encoding="utf-8")),
        "task": task_f1(rows, found) if corpus == "toxic" else None,
    }
    write_json(out.with_name("facts.json"), facts)
    with atomic_path(out) as beside, beside.open("wb") as file:
        np.savez_compressed(file, **curves)  # type: ignore[arg-type] # its stubs see allow_pickle in every name


def _mean_span(unsafe: np.ndarray, rows: np.ndarray) -> float:
    """Tokens in a run of marked ones, on average."""
    goes_on = np.concatenate([[False], unsafe[:-1] & (rows[:-1] == rows[1:])])
    return float(unsafe.sum() / (unsafe & ~goes_on).sum())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", metavar="CORPUS:SEED", help="only these runs, and no page")
    parser.add_argument("--page", action="store_true", help="write the page from what is there")
    arguments = parser.parse_args()
    quiet_libraries()
    runs: list[Any] = [item.split(":") for item in arguments.only or []]
    runs = runs or [(corpus, seed) for corpus in CORPORA for seed in SEEDS]
    if not arguments.page:
        for corpus, seed in runs:
            measure(corpus, int(seed))
    if not arguments.only:
        for corpus, seed in runs:
            profile(corpus, int(seed))
        write_page(Path("docs/spans.md"))


if __name__ == "__main__":
    main()
