"""Tables and sentences as a terminal shows them."""

from __future__ import annotations

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from tosslm.findings.sentence import Sentence, Strong
from tosslm.outward import outward
from tosslm.text import mask_hidden

WIDE = 60
"""Columns of a terminal from which on tables have all of theirs."""


def table_of(*columns: str, width: int = WIDE) -> Table:
    """An empty table: the first column is text, which a narrow terminal may fold, the others are numbers."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for i, column in enumerate(columns):
        whole = i == 0 and width >= WIDE
        table.add_column(column, justify="left" if i == 0 else "right", overflow="fold", no_wrap=whole)
    return table


def print_line(text: str, console: Console) -> None:
    """Print foreign text as one line, however long, with no markup of its own."""
    console.print(outward(text), markup=False, highlight=False, soft_wrap=True)


def told(label: str, style: str, sentence: str) -> Text:
    """A sentence after its label, the pieces that a reader looks for in bold."""
    pieces = sentence.pieces if isinstance(sentence, Sentence) else (sentence,)
    bold = [(mask_hidden(str(piece)), "bold" if isinstance(piece, Strong) else "") for piece in pieces]
    return Text.assemble((f"{label}: ", style), *bold)
