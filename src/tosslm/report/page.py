"""The report as one file: everything gathered, drawn, embedded, and closed off from the rest of the world."""

from __future__ import annotations

import base64
import hashlib
import warnings
from collections.abc import Iterator, Mapping
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from tosslm.files import write_text
from tosslm.findings.sentence import Sentence, Strong
from tosslm.report.charts import bar
from tosslm.report.embed import MAX_BYTES, choose_rows, embed_rows, encode
from tosslm.report.panel import panel
from tosslm.report.sections import SECTIONS, Page, Section, read_page
from tosslm.runs.reader import Run
from tosslm.runs.tables import stored_rows
from tosslm.text import name_hidden, number

SCRIPTS = ("data.js", "cut.js", "list.js", "row.js", "main.js")


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
    tokens, fraction = page.tokens, page.discard_fraction
    contexts = [(section, section.gather(page)) for section in SECTIONS]
    text_bytes = np.array([len(row["messages"]) for row in stored_rows(run.layout.rows("custom"), ["messages"])])
    budget = max_bytes * 0.96 - len(_render(page, contexts, "", {"all": np.arange(0)}))
    for _ in range(4):
        chosen = choose_rows(tokens, text_bytes, budget, run.config.seed)
        rows = np.sort(np.concatenate(list(chosen.values())))
        embedded = embed_rows(run, tokens, rows, fraction)
        block = encode(embedded["header"] | panel(tokens, fraction), embedded["columns"])
        html = _render(page, contexts, block, chosen)
        size = len(html.encode())
        if size <= max_bytes:
            break
        budget *= 0.9 * max_bytes / size
    else:
        warnings.warn(f"{path}: {size:,} bytes, more than {max_bytes:,}: its rows are too long", stacklevel=2)
    write_text(path, html)
    return {"rows": len(tokens.row_ids), "rows_shown": len(rows), "bytes": size}


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
    environment = Environment(
        loader=PackageLoader("tosslm.report"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        undefined=StrictUndefined,
    )
    environment.filters |= {"name_hidden": name_hidden, "number": number, "bold": bold}
    environment.globals |= {"bar": bar, "shown": {name: len(rows) for name, rows in chosen.items()}}
    assets = resources.files("tosslm.report") / "assets"
    style = (assets / "report.css").read_text(encoding="utf-8")
    parts = "".join((assets / name).read_text(encoding="utf-8") for name in SCRIPTS)
    script = f'(() => {{\n"use strict";\n{parts}}})();\n'
    run = page.run
    return environment.get_template("page.html").render(
        name=run.path.resolve().name,
        run_dir=str(run.path),
        method=run.config.method,
        model=run.config.model.name,
        seed=run.manifest["seed"],
        version=run.manifest["versions"]["tosslm"],
        tokens=page.tokens,
        sections=[
            (section, Markup(environment.get_template(section.template).render(context)))
            for section, context in contexts
        ],
        style=Markup(style),
        script=Markup(script),
        policy=_policy(script, style),
        block=block,
    )


def bold(sentence: Sentence) -> Markup:
    """A sentence as HTML, the pieces that a reader looks for in bold."""
    return Markup("").join(
        Markup("<b>{}</b>").format(str(piece)) if isinstance(piece, Strong) else escape(str(piece))
        for piece in sentence.pieces
    )


def _policy(script: str, style: str) -> str:
    """Nothing is loaded from anywhere, and no other script or style than these two runs or applies."""
    hashes = (base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in (script, style))
    script_hash, style_hash = hashes
    return "; ".join(
        (
            "default-src 'none'",
            f"script-src 'sha256-{script_hash}'",
            f"style-src 'sha256-{style_hash}'",
            "base-uri 'none'",
            "form-action 'none'",
            "require-trusted-types-for 'script'",
            "trusted-types 'none'",
        )
    )
