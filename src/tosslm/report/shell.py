"""What every page shares: its look, its script, and a policy that closes it off from the rest of the world."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence
from importlib import resources
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from tosslm.findings.sentence import Sentence, Strong
from tosslm.text import name_hidden, number

SCRIPTS = ("data.js", "marks.js", "cut.js", "list.js", "row.js", "decide.js", "main.js")


def environment(**shared: Any) -> Environment:
    """The templates, with what all of them may use.

    Args:
        shared: what the ones that are included may use too.
    """
    made = Environment(
        loader=PackageLoader("tosslm.report"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        undefined=StrictUndefined,
    )
    made.filters |= {"name_hidden": name_hidden, "number": number, "bold": bold}
    made.globals |= shared
    return made


def dress(*, saves: bool = False) -> dict[str, Any]:
    """Style, script and policy of a page, for its template.

    Args:
        saves: whether its script may talk to the server that the page comes from; else it talks to nobody.
    """
    assets = resources.files("tosslm.report") / "assets"
    style = (assets / "report.css").read_text(encoding="utf-8")
    parts = "".join((assets / name).read_text(encoding="utf-8") for name in SCRIPTS)
    script = f'(() => {{\n"use strict";\n{parts}}})();\n'
    policy = _policy(script, style, ("connect-src 'self'",) if saves else ())
    return {"style": Markup(style), "script": Markup(script), "policy": policy}


def coded(value: Any) -> str:
    """JSON in Base64, an alphabet that cannot end the element that carries it."""
    return base64.b64encode(json.dumps(value, ensure_ascii=False).encode()).decode()


def bold(sentence: Sentence) -> Markup:
    """A sentence as HTML, the pieces that a reader looks for in bold."""
    return Markup("").join(
        Markup("<b>{}</b>").format(name_hidden(piece)) if isinstance(piece, Strong) else escape(name_hidden(piece))
        for piece in sentence.pieces
    )


def _policy(script: str, style: str, more: Sequence[str]) -> str:
    """Nothing is loaded from anywhere, and no other script or style than these two runs or applies."""
    hashes = (base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in (script, style))
    script_hash, style_hash = hashes
    return "; ".join(
        (
            "default-src 'none'",
            f"script-src 'sha256-{script_hash}'",
            f"style-src 'sha256-{style_hash}'",
            *more,
            "base-uri 'none'",
            "form-action 'none'",
            "require-trusted-types-for 'script'",
            "trusted-types 'none'",
        )
    )
