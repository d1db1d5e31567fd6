"""docs/proxy.md, from results.json."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from studies.proxy.settings import CORPORA, EVERY, RESULTS

from tosslm.files import write_text

PAGE = Path("docs/proxy.md")
MEASURES = {"spearman": "Spearman", "overlap": "dropped too", "average_precision": "average precision"}
_HEAD = """# A smaller model's scores

With `references.model` the references are trained on a proxy, a smaller model of the same or another tokenizer,
and it scores the custom set in the base's place; [Proxy references](transfer.md#proxy-references) says how its
losses reach the base's tokens. Does it choose the tokens that the base's own scores would?

Written by `python -m studies.proxy.study`; what it runs stands in `studies/proxy/`, the figures in
`studies/proxy/results.json`.

Two real models stand in for each other, with different tokenizers: SmolLM2-135M-Instruct with the demo's safety
adapter, and Gemma 3 270M, which is pretrained alone: not aligned, and new to the turns that it reads here.
Each is asked on the sets of [Do scores find unsafe tokens?](spans.md): the demo's config on one row in
{harmful} of the demo's harmful and utility set, and one in {custom} of the custom set; *Spliced*; and
of *Toxic Spans*, where people marked one or two words, 400 posts, with 560 sentences to learn each reference from.
One epoch, no round of TOSS-Pro, one seed, token scores; what evidence in context would make of a proxy's scores was
not measured.

- **Spearman**: rank correlation of the token scores with the base's own, full-size ones.
- **Dropped too**: of the tokens that full-size scores drop at d = {discard}, the share that these scores drop.
Chance gives {discard}.
- **Average precision**: how well the scores find the text that is marked unsafe. Chance gives the share of marked
tokens. The demo marks whole answers and sentences, ordinary words in them too, so a row's mean finds them better than
the tokens' own scores do.

Brackets hold 95% intervals, by bootstrap over rows. Beside the proxy's scores stand simpler ones: their mean
over each row, which has no token detail left, and the proxy's scores shuffled among its tokens within each row
before they are carried over, which has the row's sum in the wrong places.
"""
_CAVEAT = """
## What this does not say

A pair of models this small, on so few rows of one person's making, shows what a proxy can lose; it does not
show how a 1B model stands in for an 8B one of its own family. Try a proxy on a run of your own: score once with
it, once without, and look at `toss show` of both. `python -m studies.proxy.study` measures again where the rows
or the models in `studies/proxy/settings.py` are changed.
"""


def write_page(results: Path = RESULTS, page: Path = PAGE) -> None:
    """Write the page of what was measured."""
    found = json.loads(results.read_text(encoding="utf-8"))
    told = {corpus: found[corpus] for corpus in CORPORA if corpus in found}
    head = _HEAD.format(
        discard=found["demo"]["pairs"][0]["discard_fraction"], **{name: EVERY[name] for name in EVERY}
    )
    parts = [head]
    for corpus, own in told.items():
        parts += [f"\n## {CORPORA[corpus]}\n", *(_pair(pair) for pair in own["pairs"])]
    write_text(page, "".join([*parts, _cost(told), _CAVEAT]))


def _pair(pair: Mapping[str, Any]) -> str:
    measures = pair["measures"]
    lines = [
        f"\n### {pair['base']} scored by {pair['proxy']}\n",
        f"{pair['rows']} rows, {pair['tokens']:,} response tokens of {pair['base']}, {pair['unsafe_share']:.1%} of "
        f"them marked unsafe. {_verdict(measures)}\n",
        "| scores | " + " | ".join(MEASURES.values()) + " |",
        "|---" * (len(MEASURES) + 1) + "|",
        *("| " + " | ".join([name, *_cells(found)]) + " |" for name, found in measures.items()),
    ]
    return "\n".join(lines) + "\n"


def _cells(found: Mapping[str, Mapping[str, float]]) -> list[str]:
    return [f"{found[name]['value']:.2f} [{found[name]['low']:.2f}, {found[name]['high']:.2f}]" for name in MEASURES]


def _verdict(measures: Mapping[str, Mapping[str, Mapping[str, float]]]) -> str:
    """What the overlap says, and whether places within rows add to it."""
    proxy, shuffled = (measures[name]["overlap"] for name in ("proxy", "proxy, shuffled in each row"))
    means = measures["proxy, row means"]["overlap"]
    told = f"Of the tokens that full-size scores drop, the proxy drops {proxy['value']:.0%}"
    simpler = f"{shuffled['value']:.0%} with its scores shuffled within rows, {means['value']:.0%} by row means"
    best = max(shuffled["value"], means["value"])
    adds = "more than" if proxy["value"] > best else "no more than"
    return f"{told}, {adds} what row-level scores alone give: {simpler}."


def _cost(told: Mapping[str, Any]) -> str:
    lines = [
        "\n## Time\n",
        "Seconds of one CPU core, for training both references and scoring the custom set; loading is in them.\n",
        "| set | model | parameters | references | scores | both |",
        "|---|---|---|---|---|---|",
    ]
    sizes = {name: model["parameters"] for name, model in told["demo"]["models"].items()}
    small, large = sorted(sizes, key=lambda name: sizes[name])
    shares = []
    for corpus, own in told.items():
        for name, model in own["models"].items():
            references, score = (model["cpu_seconds"][stage] for stage in ("references", "score"))
            size = f"{model['parameters'] / 1e6:.0f}M"
            cells = [
                CORPORA[corpus],
                name,
                size,
                *(f"{part:,.0f}" for part in (references, score, references + score)),
            ]
            lines.append(f"| {' | '.join(cells)} |")
        less, more = (sum(own["models"][name]["cpu_seconds"].values()) for name in (small, large))
        shares.append(f"{less / more:.0%}")
    machine = told["demo"]["models"][small]["machine"]
    lines.append(
        f"\nIn the place of {large}, {small} takes {', '.join(shares)} of the time; the other way round, a proxy "
        f"takes longer than the base. {machine['dtype']} on {machine['device']}, one thread."
    )
    return "\n".join(lines) + "\n"
