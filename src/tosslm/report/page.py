"""The report as one file: everything gathered, drawn, embedded, and closed off from the rest of the world."""

from __future__ import annotations

import base64
import hashlib
import warnings
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from tosslm.files import read_batches, write_text
from tosslm.findings import story
from tosslm.findings.measured import read_measured
from tosslm.findings.warnings import run_warnings
from tosslm.report import figures
from tosslm.report.charts import bar
from tosslm.report.embed import MAX_BYTES, choose_rows, embed_rows, encode
from tosslm.report.panel import panel
from tosslm.report.tokens import CustomTokens, load_tokens
from tosslm.runs.reader import Run
from tosslm.text import number, visible

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
    tokens = load_tokens(run)
    context = _context(run, tokens)
    text_bytes = _text_bytes(run)
    budget = max_bytes * 0.96 - len(_render(context, "", {"all": np.arange(0)}))
    for _ in range(4):
        chosen = choose_rows(tokens, text_bytes, budget, run.config.seed)
        rows = np.sort(np.concatenate(list(chosen.values())))
        embedded = embed_rows(run, tokens, rows, _fraction(run))
        block = encode(embedded["header"] | panel(tokens, _fraction(run)), embedded["columns"])
        html = _render(context, block, chosen)
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
    root = resources.files("tosslm.report")
    folders = (root, root / "assets", root / "templates")
    files = [item for folder in folders for item in folder.iterdir() if item.is_file()]
    parts = [
        name.encode() + item.read_bytes()
        for name, item in sorted(((item.name, item) for item in files), key=lambda pair: pair[0])
    ]
    return hashlib.sha256(b"".join(parts)).hexdigest()[:16]


def _fraction(run: Run) -> float:
    return float(run.stages["selection"]["discard_fraction"])


def _text_bytes(run: Run) -> np.ndarray:
    batches = read_batches(run.path / "data/custom.parquet", ["messages"])
    return np.array([len(row["messages"]) for batch in batches for row in batch], dtype=np.int64)


def _context(run: Run, tokens: CustomTokens) -> dict[str, Any]:
    fraction = _fraction(run)
    diagnosis, measured = story.read_diagnosis(run), read_measured(run)
    some = [figures.precision_recall(tokens), figures.position_profile(tokens)]
    return {
        "name": run.path.resolve().name,
        "run_dir": str(run.path),
        "model": run.config.model.name,
        "answer": story.answer(tokens, diagnosis, measured),
        "warnings": [*run_warnings(run), *_of_the_slider(tokens, fraction)],
        "tokens": tokens,
        "sources": _sources(tokens),
        "distributions": [(ranking, figures.distributions(tokens, ranking)) for ranking in tokens.rankings],
        "selection_figures": [figure for figure in some if figure],
        "diagnosis_figures": _diagnosis_figures(run, diagnosis),
        "causes": story.causes(diagnosis),
        "classes": _classes(run) if diagnosis else [],
        "safety": figures.safety_against_utility(measured.records),
        "results": measured.records,
        "training": figures.training_curves(run),
        "rounds": story.rounds(run, fraction),
        "stages": _stages(run),
        "machine": run.manifest.get("machine", {}),
        "versions": run.manifest["versions"],
        "config": yaml.safe_dump(run.manifest["config"], sort_keys=False, allow_unicode=True),
        "seed": run.manifest["seed"],
        "data_files": _data_files(run),
        "bar": bar,
    }


def _diagnosis_figures(run: Run, diagnosis: Mapping[str, Any] | None) -> list[figures.Figure]:
    if diagnosis is None:
        return []
    return [*figures.divergence_curves(run.path / "diagnosis"), figures.first_tokens(diagnosis)]


def _sources(tokens: CustomTokens) -> list[dict[str, Any]]:
    sizes = np.bincount(tokens.source, tokens.lengths, len(tokens.sources)).astype(int)
    gone = np.bincount(tokens.source, tokens.by_row(tokens.gone), len(tokens.sources)).astype(int)
    return [
        {"name": name, "tokens": int(n), "dropped": int(k), "share": float(k / n)}
        for name, n, k in zip(tokens.sources, sizes, gone, strict=True)
    ]


def _of_the_slider(tokens: CustomTokens, discard_fraction: float) -> list[str]:
    if np.array_equal(tokens.dropped(tokens.own, discard_fraction), tokens.gone):
        return []
    return [
        f"Selection did not go by the {tokens.own.label.lower()}: slider and rows show what that alone would drop."
    ]


def _classes(run: Run) -> list[dict[str, Any]]:
    records = pq.read_table(run.path / "diagnosis/dropped.parquet").to_pylist()
    own = [r | {"share": r["dropped"] / r["tokens"]} for r in records if r["by"] == "class"]
    return sorted(own, key=lambda record: -record["share"])


def _stages(run: Run) -> list[dict[str, Any]]:
    return [
        {key: entry.get(key, "") for key in ("fingerprint", "seconds", "finished")} | {"name": name}
        for name, entry in run.stages.items()
        if run.has(name) and name != "report"
    ]


def _data_files(run: Run) -> list[tuple[str, str]]:
    """The user's own files, where they are files, and what was made of them, each with its SHA-256."""
    data = run.stages["data"]
    read = [item for files in data.get("sources", {}).values() for item in files.items()]
    return read + [item for item in data["files"].items() if item[0].endswith(".parquet")]


def _render(context: dict[str, Any], block: str, chosen: dict[str, np.ndarray]) -> str:
    environment = Environment(
        loader=PackageLoader("tosslm.report"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    environment.filters |= {"visible": visible, "number": number}
    assets = resources.files("tosslm.report") / "assets"
    style = (assets / "report.css").read_text(encoding="utf-8")
    parts = "".join((assets / name).read_text(encoding="utf-8") for name in SCRIPTS)
    script = f'(() => {{\n"use strict";\n{parts}}})();\n'
    shown = {name: len(rows) for name, rows in chosen.items()}
    return environment.get_template("page.html").render(
        context,
        style=Markup(style),
        script=Markup(script),
        policy=_policy(script, style),
        block=block,
        shown=shown,
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
