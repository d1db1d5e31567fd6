"""Rows in the terminal: tokens coloured by score, dropped ones struck through, marked spans underlined."""

from __future__ import annotations

import heapq
import json
from typing import Any

import numpy as np
from rich import box
from rich.cells import cell_len
from rich.console import Console, Group, RenderableType
from rich.markup import escape
from rich.panel import Panel
from rich.style import Style
from rich.table import Table
from rich.text import Text

from tosslm.files import read_batches
from tosslm.findings.spans import unsafe_tokens
from tosslm.runs.reader import Run
from tosslm.runs.tables import read_keep
from tosslm.text import STEERING

_BARS = "▁▂▃▄▅▆▇█"
_RISKY, _SAFE = (214, 64, 48), (38, 120, 142)


def visible(text: str) -> str:
    """The text with every character that steers a terminal or hides in it replaced by �; as long as before."""
    return STEERING.sub("�", text)


def row_record(run: Run, row_id: str) -> dict[str, Any]:
    """One row for machines: each response token with text, losses, score, and whether it is kept.

    Raises:
        InputError: no row, or several, have such an id, or the row is not scored yet.
    """
    row = run.row(row_id)
    messages = json.loads(row["messages"])
    marked = unsafe_tokens(row["offsets"], row["unsafe_spans"] or [])
    tokens = []
    for i, (message, start, end) in enumerate(row["offsets"]):
        degraded, utility = row["loss_degraded"][i], row["loss_utility"][i]
        tokens.append(
            {
                "position": row["position"][i],
                "text": messages[message]["content"][start:end] if message >= 0 else "",
                "offsets": [message, start, end],
                "loss_degraded": degraded,
                "loss_utility": utility,
                "score": float(np.float32(utility) - np.float32(degraded)),
                "evidence": row["evidence"][i] if "evidence" in row else None,
                "keep": row["keep"][i] if "keep" in row else None,
                "marked_unsafe": bool(marked[i]) if row["unsafe_spans"] is not None else None,
            }
        )
    head = {key: row[key] for key in ("row_id", "origin", "source", "unsafe_spans")}
    return head | {"messages": messages, "tokens": tokens}


def render_row(record: dict[str, Any], threshold: float | None, console: Console) -> RenderableType:
    """A panel with the conversation, a profile of what selection ranked, and its riskiest tokens."""
    tokens = record["tokens"]
    scores = np.array([_ranked(token) for token in tokens])
    in_context = tokens[0]["evidence"] is not None
    scale = max(abs(threshold or 0.0), float(np.quantile(np.abs(scores), 0.9)), 1e-6)
    turns = _turn_of_textless(tokens)
    parts: list[RenderableType] = []
    for i, message in enumerate(record["messages"]):
        parts.append(Text(message["role"], style="bold"))
        own = [(token, turn) for token, turn in zip(tokens, turns, strict=True) if turn == i]
        if own:
            parts.append(_coloured(message["content"], [token for token, _ in own], record, i, scale, console))
        else:
            parts.append(Text(visible(message["content"]), style="dim"))
        parts.append(Text())
    dropped = sum(token["keep"] is False for token in tokens)
    width = max(10, min(len(tokens), console.width - 14))
    name = "evidence" if in_context else "score"
    parts.append(Text(f"{name}  ", style="bold") + _profile(scores, width, scale, console))
    parts.append(
        Text(
            f"{len(tokens)} response tokens, {dropped} dropped ({dropped / len(tokens):.0%}); "
            f"{name} mean {scores.mean():+.2f}, highest {scores.max():+.2f} nats"
            + (f"; dropped from {threshold:+.2f} up" if threshold is not None else "")
        )
    )
    parts += [_riskiest(tokens, console.width), _legend(scale, console)]
    title = f"[bold]{record['row_id']}[/] · {_plain(record['source'])} · {_plain(record['origin'])}"
    return Panel(Group(*parts), title=title, title_align="left", box=box.ROUNDED, padding=(1, 2))


def _ranked(token: dict[str, Any]) -> float:
    return token["score"] if token["evidence"] is None else token["evidence"]


def _has_styles(console: Console) -> bool:
    return console.is_terminal and not console.is_dumb_terminal


def _plain(text: str) -> str:
    return escape(visible(text))


def _turn_of_textless(tokens: list[dict[str, Any]]) -> list[int]:
    """The message of each token; one without text (an end of turn) belongs to the message before it."""
    turns, last = [], next((token["offsets"][0] for token in tokens if token["offsets"][0] >= 0), -1)
    for token in tokens:
        last = token["offsets"][0] if token["offsets"][0] >= 0 else last
        turns.append(last)
    return turns


def _coloured(
    content: str,
    own: list[dict[str, Any]],
    record: dict[str, Any],
    message: int,
    scale: float,
    console: Console,
) -> Text:
    shown, out = visible(content), Text()
    marks = [span for span in record["unsafe_spans"] or [] if span[0] == message]
    at = 0
    for token in own:
        _, start, end = token["offsets"]
        if start < 0:
            _append(out, " ⏎", token, False, scale, console)
            continue
        start = max(start, at)
        if start > at:
            out.append(shown[at:start], style="dim")
        if end > start:
            inside = any(start < mark[2] and end > mark[1] for mark in marks)
            _append(out, shown[start:end], token, inside, scale, console)
            at = end
    out.append(shown[at:], style="dim")
    return out if _has_styles(console) else Text(out.plain.replace("-][-", ""))


def _append(out: Text, text: str, token: dict[str, Any], marked: bool, scale: float, console: Console) -> None:
    dropped = token["keep"] is False
    if _has_styles(console):
        style = _colour(_ranked(token), scale) + Style(strike=dropped, underline=marked)
        out.append(text, style=style)
    else:  # without styles, dropped text is bracketed as wdiff does
        out.append(f"[-{text}-]" if dropped else text)


def _colour(score: float, scale: float) -> Style:
    strength = min(abs(score) / (2 * scale), 1.0)
    if strength < 0.08:
        return Style()
    red, green, blue = _RISKY if score > 0 else _SAFE
    # From near black to the full colour, under white text, so that contrast holds at every strength.
    mix = [round(24 + (channel - 24) * strength) for channel in (red, green, blue)]
    return Style(color="rgb(255,255,255)", bgcolor=f"rgb({mix[0]},{mix[1]},{mix[2]})")


def _profile(scores: np.ndarray, width: int, scale: float, console: Console) -> Text:
    out = Text()
    for part in np.array_split(scores, min(width, len(scores))):
        top = float(part.max())
        level = int(np.clip((top + 2 * scale) / (4 * scale) * 7, 0, 7))
        style = _colour(top, scale)
        out.append(
            _BARS[level], style=Style(color=style.bgcolor) if _has_styles(console) and style.bgcolor else "dim"
        )
    return out


def _riskiest(tokens: list[dict[str, Any]], width: int) -> RenderableType:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    in_context = tokens[0]["evidence"] is not None
    names = ["riskiest tokens", *(["evidence"] * in_context), "score", "utility loss", "degraded loss"]
    columns = names if width >= 50 else names[:2]
    for column in columns:
        table.add_column(column, justify="left" if column == "riskiest tokens" else "right")
    for token in heapq.nlargest(5, tokens, key=_ranked):
        text = visible(token["text"]).replace("\n", "⏎") or "end of turn"
        evidence = [f"{token['evidence']:+.2f}"] if in_context else []
        losses = (f"{token[name]:.2f}" for name in ("loss_utility", "loss_degraded"))
        cells = [*evidence, f"{token['score']:+.2f}", *losses]
        table.add_row(Text(text), *cells[: len(columns) - 1])
    return table


def _legend(scale: float, console: Console) -> Text:
    if not _has_styles(console):
        return Text("[-dropped-]")
    out = Text()
    if not console.no_color:
        out.append("safe ", style="dim")
        for step in np.linspace(-2, 2, 17):
            out.append(" ", style=_colour(step * scale, scale))
        out.append(" risky   ", style="dim")
    out.append("dropped", style="strike")
    out.append("   ")
    out.append("marked unsafe", style="underline")
    return out


def riskiest_rows(run: Run, count: int = 20) -> list[dict[str, Any]]:
    """The rows of which the largest share is dropped, then those with the highest score."""

    def rows() -> Any:
        columns = ["row_id", "source", "messages"]
        data = (row for batch in read_batches(run.path / "data/custom.parquet", columns) for row in batch)
        masks = read_keep(run.layout.keep) if run.has("selection") else None
        for number, (row, scores) in enumerate(zip(data, run.iter_scores(), strict=True)):
            dropped = int((~next(masks)[1]).sum()) if masks else 0
            yield (dropped / len(scores), float(scores.max()), -number), row, len(scores), dropped

    return [
        {
            "row_id": row["row_id"],
            "source": row["source"],
            "tokens": tokens,
            "dropped": dropped,
            "highest_score": rank[1],
            "answer": next(m["content"] for m in json.loads(row["messages"]) if m["role"] == "assistant"),
        }
        for rank, row, tokens, dropped in heapq.nlargest(count, rows(), key=lambda item: item[0])
    ]


def render_riskiest(rows: list[dict[str, Any]], width: int) -> RenderableType:
    """A table of rows to look into: on a narrow terminal what matters most, on a wide one the answers too."""
    columns = {
        "row": [row["row_id"] for row in rows],
        "source": [visible(row["source"])[:20] for row in rows],
        "tokens": [str(row["tokens"]) for row in rows],
        "dropped": [f"{row['dropped']} ({row['dropped'] / row['tokens']:.0%})" for row in rows],
        "highest": [f"{row['highest_score']:+.2f}" for row in rows],
    }
    left, taken = width - 2, []
    for name in ("row", "dropped", "highest", "source", "tokens"):
        left -= max(map(cell_len, [name, *columns[name]])) + 3
        if left >= 0 or name == "row":
            taken.append(name)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in columns:
        if name in taken:
            table.add_column(name, justify="left" if name in ("row", "source") else "right", no_wrap=True)
    if left >= 12:
        table.add_column("answer", no_wrap=True)
    for i, row in enumerate(rows):
        cells = [Text(values[i]) for name, values in columns.items() if name in taken]
        if left >= 12:
            answer = Text(visible(row["answer"]).replace("\n", " "))
            answer.truncate(left, overflow="ellipsis")
            cells.append(answer)
        table.add_row(*cells)
    return table
