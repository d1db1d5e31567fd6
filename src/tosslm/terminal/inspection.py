"""What is known of a set of tokens, as tables, sentences and rows whose trained tokens are coloured."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from rich.console import Console
from rich.style import Style
from rich.text import Text

from tosslm.outward import outward, whole_text, without_secrets
from tosslm.terminal.rows import has_styles
from tosslm.terminal.tables import WIDE, print_line, table_of, told
from tosslm.text import mask_hidden

_OPEN, _CLOSE = "\u2039", "\u203a"
_TRAINED, _CONTEXT = Style(color="green", bold=True), Style(dim=True)


def print_inspection(facts: Mapping[str, Any], meaning: str, console: Console) -> None:
    """Print counts and findings.

    Args:
        facts: of ``Inspection.summary``.
        meaning: how the set says which tokens train.
        console: where.
    """
    print_line(f"{facts['path']}: {facts['layout']} ({meaning})", console)
    if facts["not_read"]:
        print_line(f"Not counted by: {', '.join(facts['not_read'])}", console)
    console.print(_counts(facts, console.width))
    if cuts := facts.get("cuts"):
        narrow = console.width < WIDE
        names = (
            ("rows cut", "lost", "left") if narrow else ("rows cut", "trained tokens lost", "train on nothing then")
        )
        table = table_of("cut at", *names, width=console.width)
        for cut in cuts:
            table.add_row(f"{cut['max_length']:,}", *(f"{cut[key]:,}" for key in ("rows", "lost", "nothing")))
        console.print(table)
        if narrow:
            print_line("lost: trained tokens; left: rows that train on nothing then", console)
    for finding in facts["findings"]:
        console.print(told("Finding", "bold yellow", outward(finding["text"])))
    if not facts["findings"]:
        print_line("Nothing found.", console)


def _counts(facts: Mapping[str, Any], width: int) -> Any:
    table = table_of("counted", "", width=width)
    table.add_row("rows", f"{facts['rows']:,}")
    if "tokens" in facts:
        if facts["sequences"] != facts["rows"]:
            table.add_row("sequences", f"{facts['sequences']:,}")
        table.add_row("tokens", f"{facts['tokens']:,}")
        table.add_row("tokens that train", f"{facts['trained_tokens']:,} ({facts['trained_share']:.1%})")
    if answers := facts.get("answers"):
        table.add_row("answers", f"{answers['answers']:,}")
        table.add_row("answers that train", f"{answers['trained']:,}")
    table.add_row("rows that train on nothing", f"{facts['rows_training_nothing']:,}")
    if facts.get("longest_row") is not None:
        table.add_row("longest row", f"{facts['longest']:,} tokens (row {facts['longest_row']:,})")
    return table


def print_token_rows(rows: Sequence[Any], tokenizer: Any, console: Console) -> None:
    """Print rows as text, trained tokens in green, others dim; without styles, ``[+trained+]``.

    Args:
        rows: ``number``, ``ids`` (int64), ``trained`` (bool), ``length`` and ``trained_tokens`` of each.
        tokenizer: whose ids they are; without one, ids are printed.
        console: where.
    """
    for row in rows:
        console.print()
        console.print(Text(f"row {row.number:,}: {row.trained_tokens:,} of {row.length:,} tokens train", "bold"))
        console.print(coloured(row.ids, row.trained, tokenizer, console))
        if row.length > len(row.ids):
            print_line(f"... and {row.length - len(row.ids):,} tokens more", console)
    if rows:
        console.print()
        console.print(_legend(console))


def coloured(ids: np.ndarray, trained: np.ndarray, tokenizer: Any, console: Console) -> Text:
    """The text of ids, int64 ``[T]``, told apart by ``trained``, bool ``[T]``."""
    out, styled = Text(), has_styles(console)
    borders = np.flatnonzero(np.diff(trained)) + 1
    for part in np.split(np.arange(len(ids)), borders) if len(ids) else ():
        begin, end, learns = int(part[0]), int(part[-1]) + 1, bool(trained[part[0]])
        text = _text(ids, begin, end, tokenizer)
        if styled:
            out.append(text, style=_TRAINED if learns else _CONTEXT)
        else:
            out.append(f"[+{text}+]" if learns else text)
    return out


def _text(ids: np.ndarray, begin: int, end: int, tokenizer: Any) -> str:
    if tokenizer is None:
        text = " ".join(str(token) for token in ids[begin:end]) + " "
    else:
        text = "".join(_decoded(ids, begin, end, tokenizer))
    return whole_text(mask_hidden(without_secrets(text)))


def _decoded(ids: np.ndarray, begin: int, end: int, tokenizer: Any) -> Iterator[str]:
    """Text of known ids, and the numbers of others."""
    known = (ids >= 0) & (ids < len(tokenizer))
    at = begin
    while at < end:
        stop = at + 1
        while stop < end and known[stop] == known[at]:
            stop += 1
        if not known[at]:
            yield "".join(f"{_OPEN}{token}{_CLOSE}" for token in ids[at:stop])
        else:
            # Many tokenizers drop the space before a text's first word: so it is read behind the token before it.
            before = [int(ids[at - 1])] if at and known[at - 1] else []
            whole = _decode(tokenizer, [*before, *map(int, ids[at:stop])])
            head = _decode(tokenizer, before)
            yield whole[len(head) :] if whole.startswith(head) else _decode(tokenizer, list(map(int, ids[at:stop])))
        at = stop


def _decode(tokenizer: Any, ids: list[int]) -> str:
    return str(tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)) if ids else ""


def _legend(console: Console) -> Text:
    if not has_styles(console):
        return Text("[+trained+]")
    return Text.assemble(("trained", _TRAINED), "   ", ("context", _CONTEXT))
