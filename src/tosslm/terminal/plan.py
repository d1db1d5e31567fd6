"""A plan as tables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console

from tosslm.findings.found import found_told
from tosslm.findings.warnings import rewritten
from tosslm.terminal.tables import print_line, table_of, told
from tosslm.text import duration, memory_size

SHOWN_BAD_ROWS = 20


def print_plan(plan: Mapping[str, Any], console: Console) -> None:
    """Print what ``plan.make_plan`` made as tables."""
    table = table_of("set", "rows", "tokens", "response tokens", "cut", "repeated", "bad rows")
    for name, counts in plan["sets"].items():
        keys = ("rows", "tokens", "response_tokens", "truncated", "repeated", "bad")
        table.add_row(name, *(f"{counts[key]:,}" for key in keys))
    console.print(table)
    if plan.get("utility_told"):
        print_line(plan["utility_told"], console)
    for name, counts in plan["sets"].items():
        if changed := rewritten(name, counts):
            print_line(changed, console)
    for row in plan["bad_rows"][:SHOWN_BAD_ROWS]:
        text = f"{row['set']}: {row['origin']}: {row['reason']}; {row['remedy']}"
        print_line(text, console)
    if len(plan["bad_rows"]) > SHOWN_BAD_ROWS:
        console.print(f"... and {len(plan['bad_rows']) - SHOWN_BAD_ROWS} more (all of them with --json)")
    model, speed = plan["model"], plan["speed"]
    how = (
        f"measured on a few layers of its shape, in {duration(speed['seconds'])}"
        if speed["measured"]
        else "from one matrix product; --measure is surer"
    )
    numbers = model["dtype"] + (f", linear layers in {model['quantize']}," if model.get("quantize") else "")
    console.print(
        f"{model['name']}: {model['parameters'] / 1e6:,.0f}M parameters, {numbers} on {model['device']}; "
        f"about {speed['reading']:,.0f} tokens/s reading and {speed['training']:,.0f} training ({how})",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )
    if proxy := plan.get("proxy"):
        console.print(
            f"references and scores by the proxy {proxy['name']}: {proxy['parameters'] / 1e6:,.0f}M parameters; "
            f"about {proxy['speed']['reading']:,.0f} tokens/s reading and {proxy['speed']['training']:,.0f} "
            f"training; reads rows in {proxy['chat_template']} chat template",
            highlight=False,
            markup=False,
            soft_wrap=True,
        )
    _print_stages(plan, console)
    if (found := plan["unsafe_found"]) is not None:
        console.print(told("Found", "bold", found_told(found, plan["discard_fraction"])))
    for warning in plan["warnings"]:
        console.print(told("Warning", "bold yellow", warning))


def _print_stages(plan: Mapping[str, Any], console: Console) -> None:
    """Time, memory, disk and, where a price was named, money of each stage; and what that rests on."""
    price, stages = plan.get("price"), plan["stages"]
    table = table_of(
        "stage", "tokens read", "tokens trained", "time", "memory", "disk", *(["cost"] * (price is not None))
    )
    for stage in stages:
        table.add_row(
            stage["stage"],
            f"{stage['tokens_read']:,}",
            f"{stage['tokens_trained']:,}",
            duration(stage["seconds"]),
            memory_size(stage["memory_bytes"]),
            memory_size(stage["disk_bytes"]),
            *([] if price is None else [_money(stage["cost"])]),
        )
    if stages:
        table.add_section()
        whole = plan["total"]
        cost = [] if price is None else [_money(whole["cost"])]
        table.add_row("all", "", "", duration(whole["seconds"]), "", memory_size(whole["disk_bytes"]), *cost)
    console.print(table)
    if price is not None:
        console.print(f"cost: at {price:,g} an hour of this device", markup=False, highlight=False, soft_wrap=True)
    for said in plan.get("assumed", ()):
        print_line(said, console)


def _money(cost: float) -> str:
    return f"{cost:,.2f}"
