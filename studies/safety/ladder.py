"""The settings around the headline: when selection works, and where the dropped tokens lie then."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from studies.safety.data import HARMFUL
from studies.safety.ledger import ledger, read_results
from studies.safety.quality import Split, dropped_positions
from studies.safety.settings import CELLS, HEADLINE, METHODS, OURS, REFERENCES, SEEDS, STANDARD, UNTRAINED
from studies.safety.verdict import LEAST
from studies.safety.wording import nats, percent, points

_HEAD = """What differs from the headline's settings, with one seed; the headline's own lines, of the same seed,
come first. Shares dropped are of the tokens of harmful rows, of all others, and of the first five tokens of an
answer. The last column: of the same harmful goals, what the utility reference itself refuses."""
_COLUMNS = (
    "| setting | method | refusals | of SFT's gain, kept | loss of harmful answers, less the base's "
    "| dropped of harmful | of others | of first five | utility reference refuses |"
)


def ladder_lines(results: Path) -> list[str]:
    """The section on other settings; empty where none was measured."""
    headline = read_results(ledger(results, HEADLINE))
    first = {name: {SEEDS[0]: seeds[SEEDS[0]]} for name, seeds in headline.items() if SEEDS[0] in seeds}
    lines: list[str] = []
    tests: dict[str, Split] = {}
    for cell, setting in CELLS.items():
        found = read_results(ledger(results, cell))
        if cell == HEADLINE or not found:
            continue
        # Where rows and references are the headline's, so are standard SFT and what the references refuse.
        lent = [UNTRAINED, *([STANDARD] if setting.headline_rows else [])]
        lent += [f"{name}-reference" for name in REFERENCES] if setting.headline_references else []
        tests[cell] = Split(found | {name: first[name] for name in lent if name in first}, "test")
        lines += _cell_lines(cell, tests[cell], setting.methods)
    if not lines:
        return []
    shown = {name for cell in CELLS if cell != HEADLINE for name in CELLS[cell].methods}
    before = _cell_lines(HEADLINE, Split(first, "test"), [name for name in METHODS if name in shown])
    return ["## When it works", "", _HEAD, "", *findings(tests), "", _COLUMNS, "|---" * 9 + "|", *before, *lines, ""]


def findings(tests: Mapping[str, Split]) -> Iterator[str]:
    """In which settings a method keeps more or fewer refusals than standard SFT, and where least harm is learnt."""
    for name in ("toss", "toss-posterior", "toss-posterior-anchor"):
        compared = {cell: test for cell, test in tests.items() if {name, STANDARD} <= test.results.keys()}
        if not compared:
            continue
        gained = {cell: test.minus(name, STANDARD, "refusal_rate") for cell, test in compared.items()}
        more = [f"{cell} ({points(d)})" for cell, d in gained.items() if d and d.low > 0]
        fewer = [f"{cell} ({points(d)})" for cell, d in gained.items() if d and d.high < 0]
        said = [f"{word} at {', '.join(cells)}" for word, cells in (("more", more), ("fewer", fewer)) if cells]
        told = " and ".join(said) or "no more and no fewer anywhere"
        yield f"- {name} refuses, against standard SFT and beyond chance (paired), {told}, of {len(gained)} settings."
    useful = {
        (cell, name): harm
        for cell, test in tests.items()
        for name in test.results
        if name in OURS
        and (kept := test.gain_kept(name))
        and kept.value >= LEAST
        and (harm := test.minus(name, UNTRAINED, "harmful_loss"))
    }
    if useful:
        cell, name = max(useful, key=lambda key: useful[key].value)
        yield (
            f"- Of those that keep {LEAST:.0%} of SFT's gain, {name} at {cell} learns the least harm: loss of "
            f"harmful answers less the base's {nats(useful[cell, name])}. These figures are the test split's: they "
            "chose nothing."
        )


def _cell_lines(cell: str, test: Split, methods: Sequence[str]) -> Iterator[str]:
    results = test.results
    utility = f"{REFERENCES[0]}-reference"
    for name in (name for name in methods if name in results):
        trained = name != STANDARD and STANDARD in results
        harmful, useful = _dropped_of(results[name])
        cells = [
            cell,
            name,
            percent(test.mean(name, "refusal_rate")),
            percent(test.gain_kept(name)) if trained else "",
            nats(test.minus(name, UNTRAINED, "harmful_loss")),
            f"{harmful:.0%}",
            f"{useful:.0%}",
            f"{dropped_positions(results[name])[:5].mean():.0%}",
            percent(test.mean(utility, "refusal_rate")) if utility in results else "",
        ]
        yield "| " + " | ".join(cells) + " |"


def _dropped_of(kept: Mapping[int, Mapping[str, Any]]) -> tuple[float, float]:
    """Share dropped of the harmful rows' tokens, and of all others'."""
    counts = np.zeros((2, 2))
    for result in kept.values():
        for source, own in result["dropped"]["source"].items():
            counts[int(source != HARMFUL)] += own
    harmful, useful = counts[:, 1] / np.maximum(counts[:, 0], 1)
    return float(harmful), float(useful)
