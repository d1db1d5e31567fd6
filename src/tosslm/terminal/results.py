"""Results as a table: no mean without its interval, and no metric without what it is and of how many."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from tosslm.measures import MEASURES
from tosslm.text import mask_hidden

_ENDLESS = 1 << 20
_INTERVALS = "95% intervals: bootstrap over {over}; exact where all of them say the same."


def print_results(records: Sequence[Mapping[str, Any]], console: Console) -> None:
    """Print a value with its 95% interval for each metric and method (and seed): side by side where that fits."""
    _print(records, _title, console, _INTERVALS.format(over="prompts or rows"))


def print_comparison(
    summary: Sequence[Mapping[str, Any]], causes: Mapping[str, Any] | None, console: Console
) -> None:
    """Print a value with its 95% interval for each metric and method.

    Args:
        summary: one entry a method.
        causes: why standard fine-tuning refuses less, where it is known.
        console: where to.
    """
    _print(summary, _with_seeds, console, _INTERVALS.format(over="seeds and prompts or rows"))
    for entry in summary:
        for name, difference in entry.get("minus_sft", {}).items():
            if difference["low"] > 0 or difference["high"] < 0:
                _say(f"{method_name(entry)} minus sft, {name}: {cell(difference)}", console)

    if causes:
        console.print(
            f"Refusals lost by the oracle, which sees no harm, and so forgotten: {cell(causes.get('forgotten'))}; "
            f"lost by sft beyond that: {cell(causes.get('learnt'))}.",
            highlight=False,
        )


def _print(records: Sequence[Mapping[str, Any]], title: Any, console: Console, intervals: str) -> None:
    names = list(dict.fromkeys(name for record in records for name in record["metrics"]))
    wide = Table("metric", box=box.SIMPLE_HEAD, pad_edge=False)
    for record in records:
        wide.add_column(mask_hidden(title(record)), justify="right", no_wrap=True)
    for name in names:
        wide.add_row(mask_hidden(name), *(cell(record["metrics"].get(name)) for record in records))
    unbounded = console.options.update(max_width=_ENDLESS)
    fits = console.measure(wide, options=unbounded).maximum <= console.width
    console.print(wide if fits else _long(records, names, title))
    for name in names:
        counts = {record["metrics"][name].get("n") for record in records if name in record["metrics"]}
        _say(_about(name, counts - {None}), console)
    _say(intervals, console)


def _long(records: Sequence[Mapping[str, Any]], names: Sequence[str], title: Any) -> Table:
    """One line a metric and method, where a terminal, a pipe or a log is too narrow for the methods side by side."""
    table = Table("metric", "method", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("value", justify="right", no_wrap=True)
    for column in table.columns[:2]:
        column.overflow = "fold"
    for name in names:
        first = True
        for record in records:
            if name in record["metrics"]:
                shown = mask_hidden(name) if first else ""
                table.add_row(shown, mask_hidden(title(record)), cell(record["metrics"][name]))
                first = False
    return table


def _about(name: str, counts: Iterable[int]) -> str:
    """What a metric says, and of how many prompts or rows it was measured."""
    measure, of = MEASURES.get(name), " or ".join(f"{count:,}" for count in sorted(counts))
    meaning = measure.meaning if measure else "as lm-eval has it" if name.startswith("lm_eval/") else ""
    better = f"; better {measure.better}" if measure and measure.better else ""
    number = f" (n = {of})" if of else ""
    return f"{name}: {meaning}{number}{better}" if meaning else f"{name}{number}"


def _say(text: str, console: Console) -> None:
    console.print(mask_hidden(text), highlight=False, markup=False, soft_wrap=True)


def cell(metric: Mapping[str, Any] | None) -> str:
    """A value and its interval, ``-`` where nothing was measured."""
    if metric is None:
        return "-"
    return f"{metric['value']:.3f} [{metric['low']:.3f}, {metric['high']:.3f}]"


def _title(record: Mapping[str, Any]) -> str:
    seed = "" if record["seed"] is None else f", seed {record['seed']}"
    return method_name(record) + seed


def _with_seeds(entry: Mapping[str, Any]) -> str:
    seeds = len(entry["seeds"])
    return method_name(entry) + (f", {seeds} seeds" if seeds > 1 else "")


def method_name(record: Mapping[str, Any]) -> str:
    """The method of a record, with the scale of its adapter where that is not 1."""
    return record["method"] + (f" x {record['scale']:g}" if "scale" in record else "")
