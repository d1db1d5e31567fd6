"""The diagnosis stage: where safety goes, on rows that no training has seen (paper, Figure 1)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from tosslm.config import DiagnosisConfig
from tosslm.diagnosis.causes import weigh_causes
from tosslm.diagnosis.divergence import BASE, MEASURES, row_divergences
from tosslm.diagnosis.dropped import DroppedTokens
from tosslm.diagnosis.intervals import position_means, row_mean
from tosslm.diagnosis.words import token_classes
from tosslm.files import read_batches, write_json, write_parquet
from tosslm.findings.spans import unsafe_tokens
from tosslm.model.base import Base, attached_adapters
from tosslm.progress import Reporter
from tosslm.stages.ranking import finite_scores
from tosslm.stages.references import split_rows
from tosslm.stages.select import read_keep

SETS = ("harmful", "utility")
MODEL = "model"
_FLOATS, _TEXT, _INT, _FLOAT = pa.list_(pa.float32()), pa.string(), pa.int64(), pa.float64()
ROWS_SCHEMA = pa.schema(
    [("row_id", _TEXT), ("set", _TEXT), ("model", _TEXT), *((measure, _FLOATS) for measure in MEASURES)]
)
POSITIONS_SCHEMA = pa.schema(
    {"set": _TEXT, "model": _TEXT, "measure": _TEXT, "position": _INT}
    | {"mean": _FLOAT, "low": _FLOAT, "high": _FLOAT, "n": _INT}
)
DROPPED_SCHEMA = pa.schema(
    [("by", _TEXT), ("key", _TEXT), ("tokens", _INT), ("dropped", _INT), ("mean_score", _FLOAT)]
)


def diagnose(
    base: Base,
    config: DiagnosisConfig,
    *,
    data: Path,
    holdout: float,
    scores: Path,
    selection: Path,
    adapters: Mapping[str, Path],
    batch_tokens: int,
    folder: Path,
    step_fingerprint: str,
    reporter: Reporter,
) -> dict[str, Any]:
    """Measure the fine-tuned model and the degraded reference against the base; count where dropped tokens lie.

    Args:
        base: the frozen base; all adapters go on its one copy.
        config: how many rows and positions.
        data: the run's data folder.
        holdout: share of the reference rows that were held out.
        scores: folder of the last round's parts.
        selection: folder of the keep mask.
        adapters: what is measured, by name; ``degraded`` and ``model`` among them.
        batch_tokens: padded tokens in one forward pass, at most.
        folder: where the results go.
        step_fingerprint: what Parquet files are marked with.
        reporter: where progress goes.

    Returns:
        Facts for the manifest: held-out rows that were measured, of each set.
    """
    rows = [
        row | {"set": name}
        for name in SETS
        for row in islice(split_rows(data, name, holdout, want_held_out=True), config.rows)
    ]
    measured: list[dict[str, dict[str, np.ndarray]]] = []
    causes: dict[str, Any] | None = None
    if rows:
        names = list(adapters)
        with (
            attached_adapters(base, dict(adapters)) as model,
            reporter.task("diagnosis: held-out rows", len(rows)) as task,
        ):
            measured = row_divergences(
                model, rows, names, positions=config.positions, batch_tokens=batch_tokens, task=task
            )
            harmful = [row for row in rows if row["set"] == "harmful"]
            causes = weigh_causes(model, base.tokenizer, harmful, names, batch_tokens)
    counts = _dropped(data, scores, selection)
    _write_rows(folder, rows, measured, step_fingerprint)
    positions, means = _curves(rows, measured)
    _write(folder / "positions.parquet", positions, POSITIONS_SCHEMA, step_fingerprint)
    _write(folder / "dropped.parquet", counts.table(), DROPPED_SCHEMA, step_fingerprint)
    held_out = {name: sum(row["set"] == name for row in rows) for name in SETS}
    write_json(
        folder / "diagnosis.json",
        {
            "format": 1,
            "rows": held_out,
            "positions": config.positions,
            "adapters": config.adapters,
            "means": means,
            "causes": causes,
            "selection": counts.selection(),
            "first_tokens": _with_shift(counts.first_tokens(), positions),
        },
    )
    return {"rows": held_out}


def _dropped(data: Path, scores: Path, selection: Path) -> DroppedTokens:
    counts = DroppedTokens()
    columns = ["source", "messages", "offsets", "unsafe_spans"]
    rows = (row for batch in read_batches(data / "custom.parquet", columns) for row in batch)
    values = (
        row_scores
        for _, lengths, part in finite_scores(scores)
        for row_scores in np.split(part, np.cumsum(lengths)[:-1])
    )
    for row, row_scores, (_, keep) in zip(rows, values, read_keep(selection), strict=True):
        spans = row["unsafe_spans"]
        counts.add(
            row["source"],
            token_classes(json.loads(row["messages"]), row["offsets"]),
            row_scores.astype(np.float64),
            keep,
            None if spans is None else unsafe_tokens(row["offsets"], spans),
        )
    return counts


def _write_rows(
    folder: Path, rows: Sequence[Mapping[str, Any]], measured: Sequence[Mapping[str, Any]], fingerprint: str
) -> None:
    records = [
        {"row_id": row["row_id"], "set": row["set"], "model": name} | values
        for row, models in zip(rows, measured, strict=True)
        for name, values in models.items()
    ]
    _write(folder / "rows.parquet", records, ROWS_SCHEMA, fingerprint)


def _write(path: Path, records: Sequence[Mapping[str, Any]], schema: pa.Schema, fingerprint: str) -> None:
    columns = {name: [record[name] for record in records] for name in schema.names}
    write_parquet(path, columns, schema, fingerprint)


def _curves(
    rows: Sequence[Mapping[str, Any]], measured: Sequence[Mapping[str, Any]]
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Each measure of each model over the rows of each set: by position, and over all measured tokens."""
    records: list[dict[str, Any]] = []
    means: dict[str, Any] = {}
    for set_name in SETS:
        own = [models for row, models in zip(rows, measured, strict=True) if row["set"] == set_name]
        for name in own[0] if own else ():
            for measure in MEASURES:
                values = [models[name][measure] for models in own]
                if name == BASE and measure != "loss":
                    continue  # 0 by definition
                head = {"set": set_name, "model": name, "measure": measure}
                records += [head | point for point in position_means(values)]
                total = row_mean([float(row.sum()) for row in values], [len(row) for row in values])
                means.setdefault(set_name, {}).setdefault(name, {})[measure] = total
    return records, means


def _with_shift(
    first: list[dict[str, float | int | None]], positions: Sequence[Mapping[str, Any]]
) -> list[dict[str, float | int | None]]:
    """Add ``of_shift``: how much of the model's shift on held-out harmful rows falls on the first tokens."""
    points = [p for p in positions if (p["set"], p["model"], p["measure"]) == ("harmful", MODEL, "shift")]
    sums = np.array([point["mean"] * point["n"] for point in points])
    total = float(sums.sum())
    return [
        row | {"of_shift": float(sums[: int(row["first"] or 0)].sum() / total) if total > 0 else None}
        for row in first
    ]
