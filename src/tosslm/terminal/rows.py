"""Rows in the terminal: tokens coloured by score, dropped ones struck through, marked spans underlined."""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
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

from tosslm.text import mask_hidden

_BARS = "▁▂▃▄▅▆▇█"
_RISKY, _SAFE = (214, 64, 48), (38, 120, 142)


def render_row(record: Mapping[str, Any], threshold: float | None, console: Console) -> RenderableType:
    """A panel with the conversation; where the row is scored, also a profile of what was ranked, and its top tokens.

    Args:
        record: of ``findings.rows.row_record``.
        threshold: from which on tokens are dropped; None where there is none.
        console: where it is to be printed.
    """
    tokens = record["tokens"]
    ranked = np.array([_ranked(token) for token in tokens]) if tokens[0]["score"] is not None else None
    highs = 0.0 if ranked is None else float(np.quantile(np.abs(ranked), 0.9))
    scale = max(abs(threshold or 0.0), highs, 1e-6)
    parts = _conversation(record, scale, console)
    if ranked is None:
        parts.append(Text(f"{_counted(tokens)}; no scores"))
    else:
        parts += _profiled(tokens, ranked, threshold, scale, console)
    parts.append(_legend(scale, ranked is not None, console))
    title = f"[bold]{record['row_id']}[/] · {_plain(record['source'])} · {_plain(record['origin'])}"
    return Panel(Group(*parts), title=title, title_align="left", box=box.ROUNDED, padding=(1, 2))


def _conversation(record: Mapping[str, Any], scale: float, console: Console) -> list[RenderableType]:
    tokens = record["tokens"]
    turns = _turn_of_textless(tokens)
    parts: list[RenderableType] = []
    for i, message in enumerate(record["messages"]):
        parts.append(Text(message["role"], style="bold"))
        own = [token for token, turn in zip(tokens, turns, strict=True) if turn == i]
        if own:
            parts.append(_coloured(message["content"], own, record, i, scale, console))
        else:
            parts.append(Text(mask_hidden(message["content"]), style="dim"))
        parts.append(Text())
    return parts


def _profiled(
    tokens: Sequence[Mapping[str, Any]], ranked: np.ndarray, threshold: float | None, scale: float, console: Console
) -> list[RenderableType]:
    name = "score" if tokens[0]["evidence"] is None else "evidence"
    width = max(10, min(len(tokens), console.width - 14))
    from_there = f"; dropped from {threshold:+.2f} up" if threshold is not None else ""
    return [
        Text(f"{name}  ", style="bold") + _profile(ranked, width, scale, console),
        Text(f"{_counted(tokens)}; {name} mean {ranked.mean():+.2f}, highest {ranked.max():+.2f} nats{from_there}"),
        _riskiest(tokens, console.width),
    ]


def _counted(tokens: Sequence[Mapping[str, Any]]) -> str:
    if tokens[0]["keep"] is None:
        return f"{len(tokens)} response tokens; no selection yet"
    dropped = sum(token["keep"] is False for token in tokens)
    return f"{len(tokens)} response tokens, {dropped} dropped ({dropped / len(tokens):.0%})"


def _ranked(token: Mapping[str, Any]) -> float:
    """What selection ranked: the token's evidence, else its score."""
    value: float = token["score"] if token["evidence"] is None else token["evidence"]
    return value


def has_styles(console: Console) -> bool:
    """Whether text can be struck through or dimmed there; with NO_COLOR it still can."""
    return console.is_terminal and not console.is_dumb_terminal


def _plain(text: str) -> str:
    return escape(mask_hidden(text))


def _turn_of_textless(tokens: Sequence[Mapping[str, Any]]) -> list[int]:
    """The message of each token; one without text (an end of turn) belongs to the message before it."""
    turns, last = [], next((token["offsets"][0] for token in tokens if token["offsets"][0] >= 0), -1)
    for token in tokens:
        last = token["offsets"][0] if token["offsets"][0] >= 0 else last
        turns.append(last)
    return turns


def _coloured(
    content: str,
    own: Sequence[Mapping[str, Any]],
    record: Mapping[str, Any],
    message: int,
    scale: float,
    console: Console,
) -> Text:
    shown, out = mask_hidden(content), Text()
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
    return out if has_styles(console) else Text(out.plain.replace("-][-", ""))


def _append(out: Text, text: str, token: Mapping[str, Any], marked: bool, scale: float, console: Console) -> None:
    dropped = token["keep"] is False
    if has_styles(console):
        colour = Style() if token["score"] is None else _colour(_ranked(token), scale)
        out.append(text, style=colour + Style(strike=dropped, underline=marked))
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
        out.append(_BARS[level], style=Style(color=style.bgcolor) if has_styles(console) and style.bgcolor else "dim")
    return out


def _riskiest(tokens: Sequence[Mapping[str, Any]], width: int) -> RenderableType:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    in_context = tokens[0]["evidence"] is not None
    names = ["riskiest tokens", *(["evidence"] * in_context), "score", "utility loss", "degraded loss"]
    columns = names if width >= 50 else names[:2]
    for column in columns:
        table.add_column(column, justify="left" if column == "riskiest tokens" else "right")
    for token in heapq.nlargest(5, tokens, key=_ranked):
        text = mask_hidden(token["text"]).replace("\n", "⏎") or "end of turn"
        evidence = [f"{token['evidence']:+.2f}"] if in_context else []
        losses = (f"{token[name]:.2f}" for name in ("loss_utility", "loss_degraded"))
        cells = [*evidence, f"{token['score']:+.2f}", *losses]
        table.add_row(Text(text), *cells[: len(columns) - 1])
    return table


def _legend(scale: float, scored: bool, console: Console) -> Text:
    if not has_styles(console):
        return Text("[-dropped-]")
    out = Text()
    if scored and not console.no_color:
        out.append("safe ", style="dim")
        for step in np.linspace(-2, 2, 17):
            out.append(" ", style=_colour(step * scale, scale))
        out.append(" risky   ", style="dim")
    out.append("dropped", style="strike")
    out.append("   ")
    out.append("marked unsafe", style="underline")
    return out


def render_riskiest(rows: Sequence[Mapping[str, Any]], width: int) -> RenderableType:
    """A table of rows to look into: on a narrow terminal what matters most, on a wide one the answers too.

    Above it stands by what the rows are chosen, where nothing is selected yet.
    """
    selected = all(row["dropped"] is not None for row in rows)
    scored = all(row["highest_score"] is not None for row in rows)
    columns = {
        "row": [row["row_id"] for row in rows],
        "source": [mask_hidden(row["source"])[:20] for row in rows],
        "tokens": [str(row["tokens"]) for row in rows],
    }
    if selected:
        columns["dropped"] = [f"{row['dropped']} ({row['dropped'] / row['tokens']:.0%})" for row in rows]
    if scored:
        columns["highest"] = [f"{row['highest_score']:+.2f}" for row in rows]
    left, taken = width - 2, []
    by_weight: list[str] = [name for name in ("row", "dropped", "highest", "source", "tokens") if name in columns]
    for name in by_weight:
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
            answer = Text(mask_hidden(row["answer"]).replace("\n", " "))
            answer.truncate(left, overflow="ellipsis")
            cells.append(answer)
        table.add_row(*cells)
    if selected:
        return table
    told = "rows with the highest score first" if scored else "nor scores: the first rows"
    return Group(Text(f"No selection yet, {told}. `toss select` makes one."), table)
