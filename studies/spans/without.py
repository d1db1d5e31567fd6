"""What finds unsafe tokens without a degraded model: LARF's rows and DataShield's segments, in the base's own states.

    python -m studies.spans.without spliced:0 demo:0 toxic:0    # what is missing, and its part of the page

No reference is trained. Both take unsafe examples from the harmful set and safe ones from demonstrations of safety;
a token has the value of its row, or of its segment. ``without.json`` keeps what was measured.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from studies.corpora import write_jsonl
from studies.provenance import code_version
from studies.safety.data import deal, row
from studies.spans.part import kept, measure_missing, write_part
from studies.spans.profile import judged_tokens
from studies.spans.quality import Ranking, Resamples
from studies.spans.settings import CORPORA, ROOT, run_config

import tosslm
from tosslm.config import load_config
from tosslm.methods.datashield import token_risks
from tosslm.methods.larf import row_risks
from tosslm.model.base import open_base
from tosslm.pipeline import workbench
from tosslm.progress import ConsoleReporter
from tosslm.quiet import quiet_libraries

RESULTS = Path(__file__).parent / "without.json"
PAGE = Path("docs/spans.md")
BEGIN, END = "<!-- without a degraded model -->", "<!-- end of that -->"
DRAWS = 500
_HEAD = """## Without a degraded model

Written by `python -m studies.spans.without`. A degraded reference is a hazard to have. LARF and DataShield need none:
they compare the base's hidden states with those of examples, and give every token the value of its row, or of its
segment of 32 tokens ([how true they are to their sources](faithful.md)). The weights of DR-SFT fall with *base loss -
degraded loss*, so they rank tokens as that line of the tables above does, and need the degraded model. Seed {seeds};
the tables above are over three seeds, so compare in size, not to the last digit.

| | tokens, marked | signal | AUROC | AP |
|---|---|---|---|---|
"""
_TAIL = """
So a degraded reference is worth its hazard for evidence in context, which no signal without one comes near; for the
token's own score alone it is not, since DataShield's segments find sentences as well or better. What models then
learn is told in [results](results.md): with whole harmful rows DataShield is nearly as good as the defaults, with
spliced sentences it is not. On single words (Toxic Spans) neither LARF nor DataShield was measured.
"""


def measure(corpus: str, seed: int) -> dict[str, Any]:
    """What both signals are worth on the judged tokens of a corpus: each with its interval over rows."""
    demonstrations = ROOT / "demonstrations.jsonl"
    dealt, _ = deal()
    write_jsonl(demonstrations, [row(*item) for item in dealt["demonstrations"]])
    tree = run_config(corpus, seed) | {"compare": {"safety": {"path": str(demonstrations)}, "guard_segment": 32}}
    tree["run_dir"] += "-without"
    reporter = ConsoleReporter()
    run = tosslm.run(tree, until="data", reporter=reporter)
    config = load_config(tree)
    base = open_base(config.model)
    bench = workbench(config, reporter, base=base)
    inside, marked, lengths = judged_tokens(corpus, run.rows)
    found = {"larf": np.repeat(row_risks(bench), lengths), "datashield": token_risks(bench)}
    _, rows = np.unique(np.repeat(np.arange(len(lengths)), lengths)[inside], return_inverse=True)
    draws, unsafe = Resamples.draw(int(rows[-1]) + 1, DRAWS), marked[inside]
    quality = {}
    for name, values in found.items():
        drawn = draws.of(Ranking(unsafe, values[inside], rows))
        quality[name] = {
            measured: [float(own[0]), *np.quantile(own[1:], [0.025, 0.975]).tolist()]
            for measured, own in zip(("auroc", "average_precision"), drawn, strict=True)
        }
    about = {"base": base.identity, "code": code_version(), "tokens": len(unsafe), "marked": float(unsafe.mean())}
    return about | {"signals": quality}


def section(results: dict[str, Any]) -> str:
    """The part of the page that tells of them."""
    lines = []
    for name, corpus in CORPORA.items():
        for key in sorted(key for key in results if key.startswith(f"{name}:")):
            for signal, quality in results[key]["signals"].items():
                cells = [f"{v[0]:.3f} [{v[1]:.3f}, {v[2]:.3f}]" for v in quality.values()]
                where = f"{corpus.title} | {results[key]['tokens']:,}, {results[key]['marked']:.1%}"
                lines.append(f"| {where} | `{signal}` | {' | '.join(cells)} |")
    seeds = ", ".join(sorted({key.partition(":")[2] for key in results}))
    return "\n".join([BEGIN, _HEAD.format(seeds=seeds) + "\n".join(lines), _TAIL + END]) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="*", metavar="CORPUS:SEED")
    quiet_libraries()
    measure_missing(RESULTS, parser.parse_args().runs, measure)
    if results := kept(RESULTS):
        write_part(PAGE, BEGIN, END, section(results))


if __name__ == "__main__":
    main()
