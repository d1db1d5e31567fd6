"""The sections of the page, in one table: each a heading, a template, and what that template is given.

A new one is an entry of ``SECTIONS`` and a template of its name in ``templates/sections``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import yaml

from tosslm.findings import story
from tosslm.findings.decided import decided_told
from tosslm.findings.diagnosed import curve_records, read_diagnosis
from tosslm.findings.found import found_by, found_told
from tosslm.findings.measured import Measured, read_measured
from tosslm.findings.warnings import run_warnings
from tosslm.report import figures, token_figures
from tosslm.report.tokens import CustomTokens, load_tokens
from tosslm.runs.reader import Run
from tosslm.runs.tables import stored_rows


@dataclass(frozen=True, slots=True)
class Page:
    """What sections gather from.

    Attributes:
        run: the run.
        tokens: its custom set's tokens.
        diagnosis: what was diagnosed; None where nothing is.
        measured: what was measured of models.
    """

    run: Run
    tokens: CustomTokens
    diagnosis: Mapping[str, Any] | None
    measured: Measured

    @property
    def discard_fraction(self) -> float:
        """The run's own."""
        return float(self.run.stages["selection"]["discard_fraction"])

    @property
    def dropped(self) -> float:
        """The share of the tokens that are dropped, by hand and by ``scope: row`` too."""
        selection = self.run.stages["selection"]
        return float(selection["discarded"] / selection["tokens"])


@dataclass(frozen=True, slots=True)
class Section:
    """A part of the page.

    Attributes:
        id: of its element, and its template's name.
        heading: above it.
        short: what the navigation calls it.
        gather: what its template is given.
        quiet: whether its heading is for screen readers alone.
    """

    id: str
    heading: str
    short: str
    gather: Callable[[Page], dict[str, Any]]
    quiet: bool = False

    @property
    def template(self) -> str:
        """The template's path."""
        return f"sections/{self.id}.html"


def read_page(run: Run) -> Page:
    """Read what sections gather from."""
    return Page(run, load_tokens(run), read_diagnosis(run), read_measured(run))


def _answer(page: Page) -> dict[str, Any]:
    found, decided = found_by(page.run), decided_told(page.run.stages["selection"])
    return {
        "answer": [
            ("Safety", story.safety(page.diagnosis, page.measured)),
            ("Utility", story.utility(page.diagnosis, page.measured)),
            ("Tokens", story.left_out(_left_out(page.tokens))),
            *([("By hand", decided)] if decided is not None else []),
            *([("Found", found_told(found, page.dropped))] if found is not None else []),
        ],
        "warnings": run_warnings(page.run),
    }


def _cut(page: Page) -> dict[str, Any]:
    tokens = page.tokens
    some = [token_figures.precision_recall(tokens), token_figures.position_profile(tokens)]
    return {
        "choice": story.own_choice(page.run),
        "tokens": tokens,
        "sources": _sources(tokens),
        "distributions": [(ranking, token_figures.distributions(tokens, ranking)) for ranking in tokens.rankings],
        "selection_figures": [figure for figure in some if figure],
    }


def _sources(tokens: CustomTokens) -> list[dict[str, Any]]:
    sizes = tokens.by_source(lambda block: block.lengths)
    gone = tokens.by_source(lambda block: block.sums(tokens.gone[block.tokens]))
    return [
        {"name": name, "tokens": int(n), "dropped": int(k), "share": float(k / n)}
        for name, n, k in zip(tokens.sources, sizes, gone, strict=True)
    ]


def _left_out(tokens: CustomTokens) -> story.LeftOut:
    counts = np.zeros(6, dtype=np.int64)
    for block in tokens.blocks():
        gone, unsafe = tokens.gone[block.tokens], tokens.unsafe[block.tokens]
        rest = block.repeated(tokens.marked) & ~unsafe
        counts += [len(gone), gone.sum(), unsafe.sum(), gone[unsafe].sum(), rest.sum(), gone[rest].sum()]
    return story.LeftOut(*counts.tolist())


def _rows(page: Page) -> dict[str, Any]:
    return {"tokens": page.tokens}


def _diagnosis(page: Page) -> dict[str, Any]:
    run_dir = page.run.name
    if page.diagnosis is None:
        return {"run_dir": run_dir, "figures": []}
    records = curve_records(page.run, page.diagnosis)
    classes = _classes(page.run)
    return {
        "run_dir": run_dir,
        "causes": story.causes(page.diagnosis),
        "figures": [*figures.divergence_curves(records), figures.first_tokens(page.diagnosis)],
        "toward_harm": any(record["measure"] == "shift" for record in records),
        "classes": classes,
        "scored": all(record["mean_score"] is not None for record in classes),
    }


def _classes(run: Run) -> list[dict[str, Any]]:
    records = stored_rows(run.layout.diagnosis / "dropped.parquet")
    own = [r | {"share": r["dropped"] / r["tokens"]} for r in records if r["by"] == "class"]
    return sorted(own, key=lambda record: -record["share"])


def _compare(page: Page) -> dict[str, Any]:
    records = page.measured.records
    return {
        "run_dir": page.run.name,
        "safety": figures.safety_against_utility(records),
        "results": records,
    }


def _training(page: Page) -> dict[str, Any]:
    return {
        "figures": figures.training_curves(page.run),
        "rounds": story.rounds(page.run, page.discard_fraction) if page.run.last_round else [],
    }


def _made(page: Page) -> dict[str, Any]:
    manifest = page.run.manifest
    return {
        "stages": _stages(page.run),
        "machine": manifest.get("machine", {}),
        "versions": manifest["versions"],
        "config": yaml.safe_dump(manifest["config"], sort_keys=False, allow_unicode=True),
        "seed": manifest["seed"],
        "data_files": _data_files(page.run),
    }


def _stages(run: Run) -> list[dict[str, Any]]:
    return [
        {key: entry.get(key, "") for key in ("fingerprint", "seconds", "finished")} | {"name": name}
        for name, entry in run.own_stages.items()
        if name != "report"
    ]


def _data_files(run: Run) -> list[tuple[str, str]]:
    """The user's own files, where they are files, and what was made of them, each with its SHA-256."""
    data = run.stages["data"]
    read = [item for files in data.get("sources", {}).values() for item in files.items()]
    return read + [item for item in data["files"].items() if item[0].endswith(".parquet")]


SECTIONS = (
    Section("answer", "The answer", "Answer", _answer, quiet=True),
    Section("cut", "What is left out", "What is left out", _cut),
    Section("rows", "Rows", "Rows", _rows),
    Section("diagnosis", "Diagnosis", "Diagnosis", _diagnosis),
    Section("compare", "Safety and utility", "Safety and utility", _compare),
    Section("training", "Training", "Training", _training),
    Section("made", "How it was made", "How it was made", _made),
)
"""From top to bottom, in the page and in its navigation."""
