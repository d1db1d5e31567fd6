"""Do the references of the study tell harm from use at all? The gate of today on held-out rows, and what it found.

    python -m studies.spans.gate toxic:0 spliced:0    # trains the references of these runs, if they are not there
    python -m studies.spans.gate --show               # what is known

The gate needs the held-out rows alone, so the custom set, by far the larger one, is not scored. What it found is kept
in ``studies/spans/gate.json``, run by run; the page tells it.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from studies.provenance import code_version
from studies.spans.settings import CORPORA, run_config

from tosslm import pipeline
from tosslm.config import load_config
from tosslm.files import write_json
from tosslm.methods import settled
from tosslm.model.adapters import attached_adapters
from tosslm.model.base import where_it_runs
from tosslm.model.losses import response_losses
from tosslm.progress import ConsoleReporter
from tosslm.quiet import quiet_libraries
from tosslm.runs.layout import UTILITY, degraded
from tosslm.runs.tables import reference_rows
from tosslm.selection.gate import against_chance

FILE = Path(__file__).parent / "gate.json"


def known() -> dict[str, Any]:
    """What was found, by corpus and seed as ``toxic:0``."""
    found: dict[str, Any] = json.loads(FILE.read_text(encoding="utf-8")) if FILE.exists() else {}
    return found


def test_references(corpus: str, seed: int) -> None:
    """Put the references of a run to the gate, and keep what it says."""
    name = f"{corpus}:{seed}"
    if name in known():
        return
    config, method = settled(load_config(run_config(corpus, seed)))
    bench = pipeline.workbench(config, ConsoleReporter())
    every = pipeline.steps(config, method)
    pipeline.carry_out(pipeline.upto(every, "references"), bench, every=every)
    layout, share = bench.layout, config.references.holdout
    adapters = {"utility": layout.of(UTILITY), "degraded": layout.of(degraded(0))}
    rows = {one: list(reference_rows(layout.rows(one), share, want_held_out=True)) for one in ("utility", "harmful")}
    scores: dict[str, list[np.ndarray]] = {}
    with attached_adapters(bench.base, adapters) as model:
        for one, own in rows.items():
            losses = {}
            for adapter in adapters:
                model.set_adapter(adapter)
                losses[adapter] = response_losses(model, own, batch_tokens=config.scoring.batch_tokens)
            scores[one] = [u - d for u, d in zip(losses["utility"], losses["degraded"], strict=True)]
    found = asdict(against_chance(scores["utility"], scores["harmful"]))
    about = {"code": code_version(), "machine": where_it_runs(config.model)}
    write_json(FILE, dict(sorted((known() | {name: found | about}).items())))
    print(f"{name}: {found}", flush=True)


def told(corpus: str) -> str | None:
    """A sentence on the runs of a corpus that were put to the gate; None where none was."""
    own = {name.partition(":")[2]: one for name, one in known().items() if name.startswith(f"{corpus}:")}
    if not own:
        return None
    figures = "; ".join(
        f"seed {seed}: {one['gain']:.1f} nats before EM's first step, chance up to {one['quantile']:.1f}, "
        f"p = {one['p']:.3f}"
        for seed, one in own.items()
    )
    return (
        "References trained anew (`python -m studies.spans.gate`) were put to "
        "[the gate](method.md#evidence-in-context) of today, which permutes the labels of held-out rows: "
        f"{figures}."
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="*", metavar="CORPUS:SEED", help="such as toxic:0")
    parser.add_argument("--show", action="store_true", help="say what is known")
    arguments = parser.parse_args()
    quiet_libraries()
    for item in arguments.runs:
        corpus, _, seed = item.partition(":")
        test_references(corpus, int(seed))
    if arguments.show:
        print("\n".join(told(corpus) or f"{corpus}: nothing" for corpus in CORPORA))


if __name__ == "__main__":
    main()
