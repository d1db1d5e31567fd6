"""Do a small model's scores, carried over by characters, choose the tokens that the base's own scores would?

    python -m studies.proxy.study                    # what has no result yet; then the page
    python -m studies.proxy.study --only spliced     # one set
    python -m studies.proxy.study --page             # docs/proxy.md from the results that are there

Each model is the base of a run of its own, on the same rows. Its scores on its own tokens are its full-size scores;
carried to the other model's tokens they are what ``references.model`` gives, since a proxy with a chat template of
its own is trained on, and reads, the very tokens that it would as a base (``tests/test_proxy.py`` proves it).
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from studies.provenance import code_version
from studies.proxy.agreement import Tokens, agreement, row_means, shuffled
from studies.proxy.gemma import gemma_folder
from studies.proxy.page import write_page
from studies.proxy.settings import CORPORA, MODELS, PAIRS, RESULTS, ROOT, run_config
from studies.spans.part import kept
from studies.spans.profile import judged_tokens

import tosslm
from tosslm.data.proxied import carry_losses
from tosslm.files import write_json
from tosslm.model.base import open_base
from tosslm.progress import ConsoleReporter
from tosslm.quiet import quiet_libraries

DISCARD = 0.1
STAGES = ("references", "score")
Row = dict[str, Any]


def work(corpus: str, model: str, gemma: Path) -> None:
    """Train and score with one model, and write down what that took; started over where it was killed."""
    record = ROOT / corpus / f"{model}.json"
    if record.exists():
        return
    config, seconds = run_config(corpus, model, gemma), {}
    tosslm.run(config, until="data", fresh=True)
    for stage in STAGES:
        start = time.process_time()
        run = tosslm.run(config, until=stage, reporter=ConsoleReporter())
        seconds[stage] = round(time.process_time() - start, 1)
    tosslm.run(config, until="select")
    write_json(
        record,
        {
            "cpu_seconds": seconds,
            "parameters": sum(p.numel() for p in open_base(run.config.model).model.parameters()),
            "machine": run.manifest["machine"],
            "code": code_version(),
        },
    )


def compare(corpus: str, base: str, proxy: str) -> dict[str, Any]:
    """One pair: full-size scores of the base, and against them the proxy's and what is simpler."""
    runs = {name: tosslm.load_run(ROOT / corpus / name) for name in (base, proxy)}
    ours, theirs = (list(runs[name].rows) for name in (base, proxy))
    full, known = (runs[name].scores() for name in (base, proxy))
    judged, unsafe, lengths = judged_tokens(corpus, runs[base].rows)
    every = np.repeat(np.arange(len(ours)), lengths)
    whole = np.concatenate(full).astype(np.float64)
    tokens = Tokens(whole[judged], unsafe[judged], every[judged])
    random = np.random.default_rng(0)
    mixed = [shuffled(v, np.array(row["offsets"])[:, 0] >= 0, random) for v, row in zip(known, theirs, strict=True)]
    scores = _carried(ours, theirs, known)
    compared = {
        "proxy": scores,
        "proxy, row means": row_means(scores, every),
        "proxy, shuffled in each row": _carried(ours, theirs, mixed),
        "full size": whole,
        "full size, row means": row_means(whole, every),
    }
    return {
        "base": base,
        "proxy": proxy,
        "rows": len(np.unique(tokens.rows)),
        "tokens": len(tokens.rows),
        "unsafe_share": float(tokens.unsafe.mean()),
        "discard_fraction": DISCARD,
        "measures": {name: agreement(tokens, values[judged], DISCARD) for name, values in compared.items()},
    }


def measure(corpus: str, gemma: Path) -> dict[str, Any]:
    """Both models on one set, and both pairs."""
    for model in MODELS:
        work(corpus, model, gemma)
    known = {model: json.loads((ROOT / corpus / f"{model}.json").read_text(encoding="utf-8")) for model in MODELS}
    return {"models": known, "pairs": [compare(corpus, base, proxy) for base, proxy in PAIRS]}


def _carried(ours: list[Row], theirs: list[Row], values: list[np.ndarray]) -> np.ndarray:
    rows = zip(ours, theirs, values, strict=True)
    return np.concatenate([carry_losses(own, other, v, "all") for own, other, v in rows]).astype(np.float64)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--page", action="store_true", help="write the page alone")
    parser.add_argument("--only", nargs="+", choices=list(CORPORA), default=list(CORPORA))
    arguments = parser.parse_args()
    if not arguments.page:
        quiet_libraries()
        torch.set_num_threads(1)  # CPU seconds are then the seconds of one free core
        gemma = gemma_folder(ROOT)
        for corpus in arguments.only:
            if corpus not in kept(RESULTS):
                write_json(RESULTS, kept(RESULTS) | {corpus: measure(corpus, gemma)})
    write_page()


if __name__ == "__main__":
    main()
