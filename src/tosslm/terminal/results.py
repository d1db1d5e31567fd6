"""Results as a table: no mean without its interval."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table


def print_results(records: Sequence[Mapping[str, Any]], console: Console) -> None:
    """Print one row a metric and one column a method (and seed); each cell a value and its 95% interval."""
    names = list(dict.fromkeys(name for record in records for name in record["metrics"]))
    table = Table("metric", box=box.SIMPLE_HEAD, pad_edge=False)
    for record in records:
        table.add_column(_title(record), justify="right")
    for name in names:
        table.add_row(name, *(cell(record["metrics"].get(name)) for record in records))
    console.print(table)
    console.print("Values with 95% intervals (bootstrap over prompts or rows).")


def print_comparison(
    summary: Sequence[Mapping[str, Any]], causes: Mapping[str, Any] | None, console: Console
) -> None:
    """Print one row a method and one column a metric; each cell a value over its 95% interval.

    Args:
        summary: one entry a method.
        causes: why standard fine-tuning refuses less, where it is known.
        console: where to.
    """
    names = list(dict.fromkeys(name for entry in summary for name in entry["metrics"]))
    table = Table("method", "seeds", box=box.SIMPLE_HEAD, pad_edge=False)
    for name in names:
        table.add_column(name.replace("_", " "), justify="right", overflow="fold")
    for entry in summary:
        cells = (cell(entry["metrics"].get(name)).replace(" ", "\n", 1) for name in names)
        table.add_row(method_name(entry), str(len(entry["seeds"])) if entry["seeds"] else "-", *cells)
    console.print(table)
    console.print("Values over 95% intervals (bootstrap over seeds and prompts).")
    for entry in summary:
        for name, difference in entry.get("minus_sft", {}).items():
            if difference["low"] > 0 or difference["high"] < 0:
                console.print(f"{method_name(entry)} minus sft, {name}: {cell(difference)}", highlight=False)

    if causes:
        console.print(
            f"Refusals lost by the oracle, which sees no harm, and so forgotten: {cell(causes.get('forgotten'))}; "
            f"lost by sft beyond that: {cell(causes.get('learnt'))}.",
            highlight=False,
        )


def cell(metric: Mapping[str, Any] | None) -> str:
    """A value and its interval, ``-`` where nothing was measured."""
    if metric is None:
        return "-"
    return f"{metric['value']:.3f} [{metric['low']:.3f}, {metric['high']:.3f}]"


def _title(record: Mapping[str, Any]) -> str:
    seed = "" if record["seed"] is None else f", seed {record['seed']}"
    return method_name(record) + seed


def method_name(record: Mapping[str, Any]) -> str:
    """The method of a record, with the scale of its adapter where that is not 1."""
    return record["method"] + (f" x {record['scale']:g}" if "scale" in record else "")
