"""The tables at a run's end."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.text import Text

from tosslm.findings.decided import decided_told
from tosslm.findings.found import found_told
from tosslm.outward import outward
from tosslm.selection.kinds import KINDS
from tosslm.terminal.results import print_results
from tosslm.terminal.tables import WIDE, table_of, told
from tosslm.text import LISTED_SOURCES

_NAME_WIDTH = 60


def print_summary(summary: Mapping[str, Any], console: Console) -> None:
    """Print what ``findings.summary.summarize`` found."""
    if summary["sets"]:
        _print_sets(summary["sets"], console)
    if summary["trainings"]:
        _print_trainings(summary["trainings"], console)
    for name, facts in summary["refinement"].items():
        console.print(f"{name}: {facts['joined']} of {facts['samples']} rows joined the harmful set")
    if losses := summary.get("held_out_losses"):
        _print_losses(losses, console)
    if selection := summary.get("selection"):
        _print_selection(selection, console)
        if spans := summary.get("marked_spans"):
            _print_spans(spans, console)
    for name, sentence in summary.get("story", {}).items():
        console.print(told(name.capitalize(), "bold", sentence))
    for warning in summary["warnings"]:
        console.print(told("Warning", "bold yellow", warning))
    if records := summary.get("evaluation"):
        print_results(records, console)
    _print_places(summary, console)


def _print_sets(sets: Mapping[str, Mapping[str, int]], console: Console) -> None:
    columns = {"rows": "rows", "response tokens": "response_tokens"}
    if console.width >= WIDE:
        columns |= {"tokens in all": "tokens", "cut": "truncated", "bad rows": "bad"}
    table = table_of("set", *columns, width=console.width)
    for name, counts in sets.items():
        table.add_row(name, *(f"{counts[key]:,}" for key in columns.values()))
    console.print(table)


def _print_trainings(trainings: Mapping[str, Mapping[str, Any]], console: Console) -> None:
    fitting = 5 if console.width >= 72 else 3 if console.width >= WIDE else 2
    names = ("first loss", "last loss", "seconds", "steps", "tokens/s")[:fitting]
    table = table_of("training", *names, width=console.width)
    for name, facts in trainings.items():
        speed = facts["tokens_per_second"]
        cells = (
            f"{facts['first_loss']:.3f}",
            f"{facts['last_loss']:.3f}",
            f"{facts['seconds']:.0f}",
            str(facts["steps"]),
            f"{speed:,.0f}" if speed else "-",
        )
        table.add_row(name, *cells[: len(names)])
    console.print(table)


def _print_losses(losses: Mapping[str, Mapping[str, float]], console: Console) -> None:
    name, kind = ("held-out rows", " reference") if console.width >= WIDE else ("held out", "")
    table = table_of(name, "tokens", f"degraded{kind}", f"utility{kind}", width=console.width)
    for name, facts in losses.items():
        table.add_row(name, f"{facts['tokens']:,}", f"{facts['loss_degraded']:.3f}", f"{facts['loss_utility']:.3f}")
    console.print(table)


def _print_selection(selection: Mapping[str, Any], console: Console) -> None:
    first = 0 if console.width >= WIDE else 1
    table = table_of("source", *("rows", "response tokens", "dropped", "share")[first:], width=console.width)

    def add(name: Text | str, counts: Mapping[str, Any], rows: str) -> None:
        share = counts["discarded"] / counts["tokens"]
        table.add_row(name, *(rows, f"{counts['tokens']:,}", f"{counts['discarded']:,}", f"{share:.1%}")[first:])

    listed, others = _listed(selection["sources"])
    for name, counts in listed:
        add(Text(_cut(outward(name))), counts, f"{counts['rows']:,}")
    if others:
        add(f"other sources ({others['sources']:,})", others, f"{others['rows']:,}")
    table.add_section()
    add("all", selection, "")
    console.print(table)
    if "method" in selection:
        console.print(f"Selection was the method's own ({selection['method']}); it has no threshold.", markup=False)
    elif selection.get("scope") == "row":
        console.print("Tokens are dropped inside each row; there is no common threshold.")
    elif selection["threshold"] is not None:
        kind = KINDS[selection["evidence"]]
        reached = kind.dropped_if.format(f"{selection['threshold']:.3f}")
        console.print(f"Threshold: tokens that {reached} and more are dropped.")
    if (decided := decided_told(selection)) is not None:
        console.print(told("By hand", "bold", decided))
    if (found := selection.get("unsafe_found")) is not None:
        console.print(told("Found", "bold", found_told(found, selection["discarded"] / selection["tokens"])))
    if selection.get("changed_from_previous"):
        console.print(f"{selection['changed_from_previous']:,} tokens changed sides since the last selection.")


def _listed(
    sources: Mapping[str, Mapping[str, int]],
) -> tuple[list[tuple[str, Mapping[str, int]]], dict[str, int] | None]:
    """The sources that get a line, by name, and the sums of the others: the largest, as in the report."""
    by_size = sorted(sources.items(), key=lambda item: (-item[1]["rows"], item[0]))
    listed, rest = sorted(by_size[:LISTED_SOURCES]), by_size[LISTED_SOURCES:]
    if not rest:
        return listed, None
    sums = {key: sum(counts[key] for _, counts in rest) for key in ("rows", "tokens", "discarded")}
    return listed, sums | {"sources": len(rest)}


def _cut(name: str) -> str:
    return name if len(name) <= _NAME_WIDTH else f"{name[: _NAME_WIDTH - 1]}…"


def _print_spans(spans: Mapping[str, float], console: Console) -> None:
    quality = ""
    if "auroc" in spans:
        quality = f"token AUROC {spans['auroc']:.3f}, average precision {spans['average_precision']:.3f}; "
    console.print(
        f"Against the marked unsafe spans ({spans['unsafe_share']:.0%} of the tokens): {quality}dropped "
        f"{spans['unsafe_dropped']:.0%} of the unsafe tokens and {spans['safe_dropped']:.1%} of the others."
    )


def _print_places(summary: Mapping[str, Any], console: Console) -> None:
    run_dir = summary["run_dir"]

    def say(text: str) -> None:
        console.print(outward(text), markup=False, soft_wrap=True)

    say(f"Everything of this run: {run_dir}")
    if "model" in summary:
        say(f"Fine-tuned adapter: {run_dir}/model (one model folder: toss merge {run_dir} OUT)")
    if "selection" in summary:
        riskiest = "riskiest rows" if "held_out_losses" in summary else "rows that lost most"
        say(f"See the {riskiest}: toss show {run_dir}")
    if "report" in summary:
        say(f"Look at all of it in a browser: {summary['report']}")
