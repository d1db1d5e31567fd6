"""How well each signal finds the marked unsafe text of a run: token scores against the losses they are made of.

    python examples/demo/signals.py runs/demo

The score is the difference of two losses. If one loss alone, or the base's own, found the unsafe tokens as well,
the second reference would be wasted; so all are put to the same test. For each single loss both directions are
tried and the better one is shown. Evidence in context (``selection.evidence``) is learnt without any mark. The last
two columns say which share of the marked and of the other tokens would be dropped if that was ranked and a tenth of
all tokens went, as in the paper; the line below the table, what the run itself dropped.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from rich import box
from rich.console import Console
from rich.table import Table

import tosslm
from tosslm.characters import unsafe_tokens
from tosslm.files import write_json
from tosslm.findings.spans import ranking_quality
from tosslm.model.base import open_base
from tosslm.quiet import quiet_libraries
from tosslm.runs.ranking import learn_ranking
from tosslm.selection.evidence import window_means
from tosslm.selection.kinds import KINDS

SHARE = 0.1


def signals(run: tosslm.Run) -> dict[str, dict[str, float]]:
    """Quality of each signal over the rows whose unsafe text is marked."""
    rows = run.rows
    marked = [i for i, spans in enumerate(rows["unsafe_spans"]) if spans is not None]
    unsafe = np.concatenate([unsafe_tokens(rows[i]["offsets"], rows[i]["unsafe_spans"]) for i in marked])
    base = open_base(run.config.model)
    losses = tosslm.response_losses(base.model, rows.select(marked), batch_tokens=run.config.scoring.batch_tokens)
    parts = [pq.read_table(part) for part in sorted(run.scores_folder().glob("part-*.parquet"))]
    stored = {
        name: [np.array(row, dtype=np.float32) for part in parts for row in part[name].to_pylist()]
        for name in ("loss_degraded", "loss_utility")
    }
    degraded, utility = (np.concatenate([stored[name][i] for i in marked]) for name in stored)
    scores = utility - degraded
    lengths = np.array([len(stored["loss_utility"][i]) for i in marked])
    _, posterior = learn_ranking(KINDS["posterior"], run.scores_folder(), seed=run.config.seed)
    values = {
        "token score": scores,
        **{f"token score, window {width}": window_means(scores, lengths, width) for width in (3, 5, 9)},
        "token score, posterior": posterior(scores, lengths),
        "base loss": np.concatenate(losses),
        "degraded loss": degraded,
        "utility loss": utility,
    }
    first_scores = run.scores(0)
    if run.config.refinement.rounds:
        values["token score before TOSS-Pro"] = np.concatenate([first_scores[i] for i in marked])
    results = {}
    for name, value in values.items():
        directions = [value] if name.startswith("token score") else [value, -value]
        best = max(directions, key=lambda way: ranking_quality(unsafe, way)["auroc"])
        dropped = ~tosslm.select_tokens(best, SHARE)
        results[name] = ranking_quality(unsafe, best) | _shares(unsafe, dropped)
    keep = run.keep()
    results["the run"] = _shares(unsafe, ~np.concatenate([keep[i] for i in marked]))
    return results


def _shares(unsafe: np.ndarray, dropped: np.ndarray) -> dict[str, float]:
    return {"unsafe_dropped": float(dropped[unsafe].mean()), "safe_dropped": float(dropped[~unsafe].mean())}


def main() -> None:
    quiet_libraries()
    folder = Path(sys.argv[1])
    results = signals(tosslm.load_run(folder))
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("finding marked tokens", no_wrap=True)
    table.add_column("AUROC", justify="right")
    table.add_column("AP", justify="right")
    table.add_column("marked dropped", justify="right")
    table.add_column("others dropped", justify="right")
    for name, quality in results.items():
        if name == "the run":
            continue
        ranking = (f"{quality[key]:.3f}" for key in ("auroc", "average_precision"))
        table.add_row(name, *ranking, f"{quality['unsafe_dropped']:.0%}", f"{quality['safe_dropped']:.1%}")
    Console().print(table)
    share = next(iter(results.values()))["unsafe_share"]
    own = results["the run"]
    print(f"By chance: AUROC 0.500, average precision (AP) {share:.3f}.")
    print(f"The run dropped {own['unsafe_dropped']:.0%} of the marked tokens, {own['safe_dropped']:.1%} of others.")
    write_json(folder / "signals.json", results)
    print(json.dumps({"written": str(folder / "signals.json")}))


if __name__ == "__main__":
    main()
