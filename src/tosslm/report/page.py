"""The report as one file: everything gathered, drawn, embedded, and closed off from the rest of the world."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable, Iterator, Mapping
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup

from tosslm.files import write_text
from tosslm.report.charts import bar
from tosslm.report.embed import MAX_BYTES, choose_rows, embed_rows, encode
from tosslm.report.panel import panel
from tosslm.report.sections import SECTIONS, Page, Section, read_page
from tosslm.report.shell import coded, dress, environment
from tosslm.runs.decisions import record_of
from tosslm.runs.reader import Run
from tosslm.runs.tables import stored_rows

Choose = Callable[[np.ndarray, float], dict[str, np.ndarray]]
"""Rows to show, by why they are shown, given the bytes of each row's text and those that there are in all."""


def write_report(run: Run, path: Path, *, max_bytes: int = MAX_BYTES) -> dict[str, Any]:
    """Write the report.

    Args:
        run: a run whose selection is done; what else is done is shown.
        path: the HTML file.
        max_bytes: how large it may become; rows are sampled to fit.

    Returns:
        Facts for the manifest: rows of the run, rows in the report, bytes.

    Warns:
        UserWarning: not even the fewest rows fit; the file is larger than ``max_bytes``.
    """
    page = read_page(run)
    contexts = [(section, section.gather(page)) for section in SECTIONS]
    html, _, chosen = fitted(
        page,
        lambda text_bytes, budget: choose_rows(page.tokens, text_bytes, budget, run.config.seed),
        lambda block, chosen: _render(page, contexts, block, chosen),
        max_bytes,
    )
    size = len(html.encode())
    if size > max_bytes:
        warnings.warn(f"{path}: {size:,} bytes, more than {max_bytes:,}: its rows are too long", stacklevel=2)
    write_text(path, html)
    return {"rows": len(page.tokens.lengths), "rows_shown": sum(map(len, chosen.values())), "bytes": size}


def fitted(
    page: Page, choose: Choose, render: Callable[[str, Mapping[str, np.ndarray]], str], max_bytes: int
) -> tuple[str, str, dict[str, np.ndarray]]:
    """A page with as many rows as fit into it.

    Args:
        page: what it shows.
        choose: the rows.
        render: the page, of the embedded block and the rows that were chosen.
        max_bytes: how large it may become; it is larger where not even the fewest rows fit.

    Returns:
        The page, the block in it, and the rows that it shows.
    """
    tokens, fraction, run = page.tokens, page.discard_fraction, page.run
    messages = stored_rows(run.layout.rows("custom"), ["messages"])
    text_bytes = np.fromiter((len(row["messages"]) for row in messages), np.int32, len(tokens.lengths))
    budget = max_bytes * 0.96 - len(render("", {"all": np.arange(0)}))
    for _ in range(4):
        chosen = choose(text_bytes, budget)
        rows = np.sort(np.concatenate(list(chosen.values())))
        embedded = embed_rows(run, tokens, rows, fraction)
        block = encode(embedded["header"] | panel(tokens, fraction), embedded["columns"])
        html = render(block, chosen)
        size = len(html.encode())
        if size <= max_bytes:
            break
        budget *= 0.9 * max_bytes / size
    return html, block, chosen


def assets_print() -> str:
    """Changes when anything does that the page is made of."""
    package = resources.files("tosslm")
    parts = (package / "report", package / "findings", package / "text.py")
    digest = hashlib.sha256()
    for name, content in sorted(item for part in parts for item in _files(part, part.name)):
        digest.update(name.encode() + content)
    return digest.hexdigest()[:16]


def _files(item: Traversable, name: str) -> Iterator[tuple[str, bytes]]:
    """Path and content of a file, or of every file in a folder; compiled ones aside, which are none of the page's."""
    if item.is_file():
        yield name, item.read_bytes()
    elif item.name != "__pycache__":
        for inner in item.iterdir():
            yield from _files(inner, f"{name}/{inner.name}")


def _render(
    page: Page, contexts: list[tuple[Section, dict[str, Any]]], block: str, chosen: Mapping[str, np.ndarray]
) -> str:
    shown = {name: len(rows) for name, rows in chosen.items()}
    templates = environment(bar=bar, shown=shown, review=None)
    run = page.run
    return templates.get_template("page.html").render(
        name=run.path.resolve().name,
        run_dir=run.name,
        method=run.config.method,
        model=run.config.model.name,
        seed=run.manifest["seed"],
        version=run.manifest["versions"]["tosslm"],
        tokens=page.tokens,
        sections=[
            (section, Markup(templates.get_template(section.template).render(context)))
            for section, context in contexts
        ],
        decisions=coded([record_of(decision) for decision in page.tokens.decisions]),
        block=block,
        **dress(),
    )
