"""What a run did, in numbers: the table at its end, and the same for machines."""

from __future__ import annotations

from typing import Any

import numpy as np
from markupsafe import Markup
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from tosslm.files import read_batches
from tosslm.findings import story
from tosslm.findings.measured import read_measured
from tosslm.findings.spans import ranking_quality, unsafe_tokens
from tosslm.findings.warnings import run_warnings
from tosslm.runs.reader import Run
from tosslm.runs.results import read_results
from tosslm.terminal.results import print_results
from tosslm.terminal.rows import visible

_WIDE = 60
"""Columns of a terminal from which on tables have all of theirs."""


def summarize(run: Run) -> dict[str, Any]:
    """Rows, tokens, dropped tokens per source, threshold, losses, and where things are."""
    rounds = run.config.refinement.rounds
    stages = {
        name: entry
        for name, entry in run.stages.items()
        if run.has(name) and ("round-" not in name or int(name.rpartition("-")[2]) <= rounds)
    }
    summary: dict[str, Any] = {"run_dir": str(run.path), "sets": stages.get("data", {}).get("sets", {})}
    for name in ("selection", "model"):
        if name in stages:
            summary[name] = {k: v for k, v in stages[name].items() if k not in ("files", "losses")}
    summary["trainings"] = {
        name: {key: entry[key] for key in ("steps", "first_loss", "last_loss", "tokens_per_second", "seconds")}
        for name, entry in stages.items()
        if "first_loss" in entry
    }
    summary["refinement"] = {
        name: {key: stages[name][key] for key in ("joined", "samples")}
        for name in stages
        if name.startswith("refinement/")
    }
    if "selection" in stages and run.scored:
        summary["held_out_losses"] = _held_out_losses(run)
        if spans := _span_quality(run):
            summary["marked_spans"] = spans
    if "selection" in stages:
        summary["story"] = _story(run)
        summary["warnings"] = run_warnings(run)
    if run.has("report"):
        summary["report"] = str(run.path / "report.html")
    if "evaluation/model" in stages:
        summary["evaluation"] = read_results(run.layout.results)
    summary["seconds"] = {name: entry["seconds"] for name, entry in stages.items()}
    return summary


def _story(run: Run) -> dict[str, str]:
    """The report's sentences, without their markup."""
    diagnosis, measured = story.read_diagnosis(run), read_measured(run)
    if diagnosis is None and measured.own is None:
        return {}
    found = {"safety": story.safety(diagnosis, measured), "utility": story.utility(diagnosis, measured)}
    if cause := story.causes(diagnosis):
        found["cause"] = cause
    return {name: Markup(text).striptags() for name, text in found.items()}


def _held_out_losses(run: Run) -> dict[str, dict[str, float]]:
    sums: dict[str, list[float]] = {}
    for batch in read_batches(run.scores_folder() / "heldout.parquet"):
        for row in batch:
            total = sums.setdefault(row["set"], [0.0, 0.0, 0.0])
            total[0] += len(row["position"])
            total[1] += sum(row["loss_degraded"])
            total[2] += sum(row["loss_utility"])
    return {
        name: {"tokens": int(n), "loss_degraded": degraded / n, "loss_utility": utility / n}
        for name, (n, degraded, utility) in sums.items()
    }


def _span_quality(run: Run) -> dict[str, float] | None:
    unsafe: list[np.ndarray] = []
    scores: list[np.ndarray] = []
    dropped: list[np.ndarray] = []
    columns = ["offsets", "unsafe_spans"]
    rows = (row for batch in read_batches(run.path / "data/custom.parquet", columns) for row in batch)
    for row, ranked, keep in zip(rows, run.iter_evidence(), run.keep(), strict=True):
        if row["unsafe_spans"] is not None:
            unsafe.append(unsafe_tokens(row["offsets"], row["unsafe_spans"]))
            scores.append(ranked)
            dropped.append(~keep)
    if not unsafe or len(np.unique(flat := np.concatenate(unsafe))) < 2:
        return None
    gone = np.concatenate(dropped)
    return ranking_quality(flat, np.concatenate(scores)) | {
        "unsafe_dropped": float(gone[flat].mean()),
        "safe_dropped": float(gone[~flat].mean()),
    }


def print_summary(summary: dict[str, Any], console: Console) -> None:
    """Print the tables of a run."""
    if summary["sets"]:
        columns = {"rows": "rows", "response tokens": "response_tokens"}
        if console.width >= _WIDE:
            columns |= {"tokens in all": "tokens", "cut": "truncated", "bad rows": "bad"}
        table = table_of("set", *columns, width=console.width)
        for name, counts in summary["sets"].items():
            table.add_row(name, *(f"{counts[key]:,}" for key in columns.values()))
        console.print(table)
    if summary["trainings"]:
        fitting = 5 if console.width >= 72 else 3 if console.width >= _WIDE else 2
        names = ("first loss", "last loss", "seconds", "steps", "tokens/s")[:fitting]
        table = table_of("training", *names, width=console.width)
        for name, facts in summary["trainings"].items():
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
    for name, facts in summary["refinement"].items():
        console.print(f"{name}: {facts['joined']} of {facts['samples']} rows joined the harmful set")
    if losses := summary.get("held_out_losses"):
        name, kind = ("held-out rows", " reference") if console.width >= _WIDE else ("held out", "")
        table = table_of(name, "tokens", f"degraded{kind}", f"utility{kind}", width=console.width)
        for name, facts in losses.items():
            table.add_row(
                name, f"{facts['tokens']:,}", f"{facts['loss_degraded']:.3f}", f"{facts['loss_utility']:.3f}"
            )
        console.print(table)
    if selection := summary.get("selection"):
        _print_selection(selection, summary.get("marked_spans"), console)
    for name, text in summary.get("story", {}).items():
        console.print(Text.assemble((f"{name.capitalize()}: ", "bold"), text))
    for warning in summary.get("warnings", []):
        console.print(Text.assemble(("Warning: ", "bold yellow"), warning))
    if records := summary.get("evaluation"):
        print_results(records, console)
    _print_places(summary, console)


def _print_selection(selection: dict[str, Any], spans: dict[str, float] | None, console: Console) -> None:
    first = 0 if console.width >= _WIDE else 1
    table = table_of("source", *("rows", "response tokens", "dropped", "share")[first:], width=console.width)

    def add(name: Text | str, counts: dict[str, Any], rows: str) -> None:
        share = counts["discarded"] / counts["tokens"]
        table.add_row(name, *(rows, f"{counts['tokens']:,}", f"{counts['discarded']:,}", f"{share:.1%}")[first:])

    for name, counts in sorted(selection["sources"].items()):
        add(Text(visible(name)), counts, f"{counts['rows']:,}")
    table.add_section()
    add("all", selection, "")
    console.print(table)
    if selection["threshold"] is not None:
        what = {"token": "score", "window": "have a window mean of", "posterior": "have log-odds of unsafe of"}
        unit = "" if selection["evidence"] == "posterior" else " nats"
        console.print(
            f"Threshold: tokens that {what[selection['evidence']]} {selection['threshold']:.3f}{unit} and more are "
            "dropped."
        )
    if selection.get("changed_from_previous"):
        console.print(f"{selection['changed_from_previous']:,} tokens changed sides since the last selection.")
    if spans:
        console.print(
            f"Against the marked unsafe spans ({spans['unsafe_share']:.0%} of the tokens): token AUROC "
            f"{spans['auroc']:.3f}, average precision {spans['average_precision']:.3f}; dropped "
            f"{spans['unsafe_dropped']:.0%} of the unsafe tokens and {spans['safe_dropped']:.1%} of the others."
        )


def _print_places(summary: dict[str, Any], console: Console) -> None:
    run_dir = summary["run_dir"]
    console.print(f"Everything of this run: {run_dir}", markup=False, soft_wrap=True)
    if "model" in summary:
        console.print(
            f"Fine-tuned adapter: {run_dir}/model (one model folder: toss merge {run_dir} OUT)",
            markup=False,
            soft_wrap=True,
        )
    if "selection" in summary:
        console.print(f"See the riskiest rows: toss show {run_dir}", markup=False, soft_wrap=True)
    if "report" in summary:
        console.print(f"Look at all of it in a browser: {summary['report']}", markup=False, soft_wrap=True)


def table_of(*columns: str, width: int = _WIDE) -> Table:
    """An empty table: the first column is text, which a narrow terminal may fold, the others are numbers."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for i, column in enumerate(columns):
        whole = i == 0 and width >= _WIDE
        table.add_column(column, justify="left" if i == 0 else "right", overflow="fold", no_wrap=whole)
    return table
