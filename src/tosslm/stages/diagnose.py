"""The diagnosis stage: where safety goes, on rows that no training has seen (paper, Figure 1)."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from tosslm.characters import unsafe_tokens
from tosslm.config import Config
from tosslm.data.shared import REFERENCES
from tosslm.diagnosis.dropped import DroppedTokens
from tosslm.diagnosis.words import token_classes
from tosslm.files import write_json, write_parquet, write_text
from tosslm.methods.method import Method
from tosslm.ragged import answer_positions
from tosslm.runs.layout import DATA, DIAGNOSIS, MODEL, SELECTION, Layout, degraded, scores
from tosslm.runs.recorded import Mark
from tosslm.runs.tables import (
    DIAGNOSED_ROWS_SCHEMA,
    DROPPED_SCHEMA,
    POSITIONS_SCHEMA,
    by_row,
    finite_scores,
    read_keep,
    reference_rows,
    stored_rows,
)
from tosslm.stages.step import Facts, Stage, Step
from tosslm.workbench import Workbench


def _steps(config: Config, method: Method, before: Sequence[Step]) -> list[Step]:
    return [diagnosis_step(config, method)] if method.trains else []


STAGE = Stage("diagnose", (DIAGNOSIS,), _steps)


def diagnosis_step(config: Config, method: Method) -> Step:
    """How far the model moved from the base, and whether toward harm, at each response position.

    Where no references are trained, or on a proxy, there is no degraded one to move toward: the distance is measured,
    not the shift.
    """
    last = config.refinement.rounds
    scored = method.builds_on != "data"
    toward = scored and not config.references.model
    reads = (DATA, *([degraded(last)] if toward else []), *([scores(last)] if scored else []), SELECTION, MODEL)
    return Step(
        DIAGNOSIS,
        "diagnose",
        4,
        reads,
        lambda bench, mark: diagnose(bench, mark, scored=scored),
        _covers,
    )


def _covers(bench: Workbench) -> list[Any]:
    from tosslm.model.folders import check_adapter, folder_checksums

    config = bench.config.diagnosis
    for folder in config.adapters.values():
        check_adapter(Path(folder))
    checksums = {name: folder_checksums(Path(folder)) for name, folder in config.adapters.items()}
    return [
        config.model_dump(),
        bench.config.references.holdout,
        bench.base.identity,
        checksums,
        *bench.base.answering,
    ]


def diagnose(bench: Workbench, mark: Mark, *, scored: bool) -> Facts:
    """Measure model and degraded reference against the base; count where dropped tokens lie.

    Returns:
        Facts for the manifest: held-out rows that were measured, of each set.
    """
    from tosslm.diagnosis.curves import diagnosis_means, with_shift
    from tosslm.diagnosis.divergence import DEGRADED
    from tosslm.report.figures import divergence_curves
    from tosslm.report.picture import picture

    config, layout = bench.config, bench.layout
    last, folder = config.refinement.rounds, layout.diagnosis
    toward = scored and not bench.proxy
    if scored and bench.proxy:
        bench.reporter.say("diagnosis: the degraded reference is a proxy's, so no movement toward it is measured")
    own = ({DEGRADED: layout.of(degraded(last))} if toward else {}) | {MODEL: layout.model}
    adapters = own | {name: Path(other) for name, other in config.diagnosis.adapters.items()}
    held_out = measured_rows(bench)
    measured, causes = measure(bench, held_out, adapters)
    counts = _dropped(layout, last if scored else None)
    positions = write_measured(folder, held_out, measured, mark.fingerprint)
    write_records(folder / "dropped.parquet", counts.table(), DROPPED_SCHEMA, mark.fingerprint)
    rows = {name: sum(row["set"] == name for row in held_out) for name in REFERENCES}
    write_json(
        folder / "diagnosis.json",
        {
            "format": 1,
            "rows": rows,
            "positions": config.diagnosis.positions,
            "adapters": config.diagnosis.adapters,
            "means": diagnosis_means(held_out, measured),
            "causes": causes,
            "selection": counts.selection(),
            "first_tokens": with_shift(counts.first_tokens(), positions, MODEL),
        },
    )
    if curves := divergence_curves(positions):
        write_text(folder / "curves.svg", picture(curves))
    return {"rows": rows}


def measured_rows(bench: Workbench) -> list[dict[str, Any]]:
    """The held-out rows of both sets, each with its ``set``, as many as the config asks for."""
    share, count = bench.config.references.holdout, bench.config.diagnosis.rows
    return [
        row | {"set": name}
        for name in REFERENCES
        for row in islice(reference_rows(bench.layout.rows(name), share, want_held_out=True), count)
    ]


def measure(
    bench: Workbench, rows: Sequence[Mapping[str, Any]], adapters: Mapping[str, Path]
) -> tuple[list[dict[str, dict[str, np.ndarray]]], dict[str, Any] | None]:
    """Measures of each row under each adapter and the base, and what weighs more of harm learnt and forgotten.

    Args:
        bench: of the run.
        rows: held-out rows, as ``measured_rows`` gives them.
        adapters: what is measured, by name; all go on the base's one copy.
    """
    if not rows:
        return [], None
    from tosslm.diagnosis.causes import weigh_causes
    from tosslm.diagnosis.divergence import row_divergences
    from tosslm.model.adapters import attached_adapters

    names, batch_tokens = list(adapters), bench.config.scoring.batch_tokens
    with (
        attached_adapters(bench.base, dict(adapters)) as model,
        bench.reporter.task("diagnosis: held-out rows", len(rows)) as task,
    ):
        positions = bench.config.diagnosis.positions
        measured = row_divergences(model, rows, names, positions=positions, batch_tokens=batch_tokens, task=task)
        harmful = [row for row in rows if row["set"] == "harmful"]
        return measured, weigh_causes(model, bench.base.tokenizer, harmful, names, batch_tokens)


def write_measured(
    folder: Path, rows: Sequence[Mapping[str, Any]], measured: Sequence[Mapping[str, Any]], fingerprint: str
) -> list[dict[str, Any]]:
    """Write ``rows.parquet`` and ``positions.parquet``; gives back the records of the latter."""
    from tosslm.diagnosis.curves import position_records

    records = [
        {"row_id": row["row_id"], "set": row["set"], "model": name} | values
        for row, models in zip(rows, measured, strict=True)
        for name, values in models.items()
    ]
    write_records(folder / "rows.parquet", records, DIAGNOSED_ROWS_SCHEMA, fingerprint)
    positions = position_records(rows, measured)
    write_records(folder / "positions.parquet", positions, POSITIONS_SCHEMA, fingerprint)
    return positions


def write_records(path: Path, records: Sequence[Mapping[str, Any]], schema: pa.Schema, fingerprint: str) -> None:
    """Write records as a table; what one lacks is null."""
    columns = {name: [record.get(name) for record in records] for name in schema.names}
    write_parquet(path, columns, schema, fingerprint)


def _dropped(layout: Layout, last_round: int | None) -> DroppedTokens:
    counts = DroppedTokens()
    columns = ["source", "messages", "offsets", "unsafe_spans", "response_mask"]
    values: Iterable[np.ndarray | None] = (None for _ in read_keep(layout.keep))
    if last_round is not None:
        values = by_row(finite_scores(layout.of(scores(last_round))))
    masks = (keep for _, keep in read_keep(layout.keep))
    for row, keep, row_scores in zip(stored_rows(layout.rows("custom"), columns), masks, values, strict=True):
        spans = row["unsafe_spans"]
        counts.add(
            row["source"],
            token_classes(json.loads(row["messages"]), row["offsets"]),
            None if row_scores is None else row_scores.astype(np.float64),
            keep,
            None if spans is None else unsafe_tokens(row["offsets"], spans),
            answer_positions(np.asarray(row["response_mask"], dtype=bool)),
        )
    return counts
