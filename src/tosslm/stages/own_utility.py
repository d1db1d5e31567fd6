"""``data.utility: {from: custom}``: rows of the custom set stand in for a utility set, cross-fitted and trimmed.

Each half of them teaches a reference that scores the other half, so that no token is judged by what has learnt it.
Before that, the rows that look riskiest are left out: TOSS-Pro's walk turned round, with the base in the place of
the utility reference that is not there yet.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tosslm.config import Config
from tosslm.data.own_utility import FOLDS, fold_of
from tosslm.data.rows import base_id, held_out
from tosslm.errors import TosslmError
from tosslm.files import read_batches, write_json
from tosslm.runs.layout import TRUSTED, UTILITY, Layout, degraded, utility_fold
from tosslm.runs.recorded import Mark
from tosslm.runs.tables import TRAINED_COLUMNS
from tosslm.selection.joining import trusted_rows
from tosslm.stages.proxy import reads, rows_of
from tosslm.stages.step import Facts, Step
from tosslm.workbench import Workbench

HELD_OUT = "held_out"


def utility_references(config: Config) -> tuple[str, ...]:
    """The steps that train what scores as the utility reference: one, or one a fold."""
    return tuple(map(utility_fold, FOLDS)) if config.data.utility.of_custom else (UTILITY,)


def trusted_step(config: Config) -> Step:
    """Which of the rows that stand in for a utility set are learnt from, and held out, after the trim."""
    return Step(
        TRUSTED,
        "references",
        1,
        (*reads(config), degraded(0)),
        _trust,
        lambda bench: [
            bench.config.data.utility.trim,
            bench.config.references.holdout,
            bench.config.scoring.covered(),
            bench.reference_base.identity,
        ],
    )


def trusted_ids(layout: Layout, group: str) -> set[str]:
    """Row ids that stay after the trim: of a fold, ``fold-0`` or ``fold-1``, or the held-out ones."""
    stored = json.loads(layout.trusted.read_text(encoding="utf-8"))
    return set(stored["groups"][group]["row_ids"])


def group_of(row_id: str, apart: set[str]) -> str:
    """What a row serves: ``held_out``, or to teach the reference of its fold.

    Args:
        row_id: of the row.
        apart: contents that are held out.
    """
    return HELD_OUT if base_id(row_id) in apart else f"fold-{fold_of(row_id)}"


def _trust(bench: Workbench, mark: Mark) -> Facts:
    """Write ``rows.json``: for each group the rows that stay, by their mean of base loss less degraded loss."""
    config = bench.config
    ids, means = _mean_scores(bench)
    apart = held_out(ids, config.references.holdout)
    groups = np.array([group_of(row_id, apart) for row_id in ids])
    found: dict[str, dict[str, Any]] = {}
    for name in (*(f"fold-{fold}" for fold in FOLDS), HELD_OUT):
        members = np.flatnonzero(groups == name)
        try:
            stay = members[trusted_rows(means[members], config.data.utility.trim)]
        except ValueError as error:
            raise TosslmError(f"data.utility.from: custom: {error}; train with a lower learning_rate") from None
        found[name] = {"of": len(members), "row_ids": [ids[i] for i in stay.tolist()]}
    write_json(bench.layout.trusted, {"trim": config.data.utility.trim, "groups": found})
    facts = {name: {"of": group["of"], "rows": len(group["row_ids"])} for name, group in found.items()}
    told = ", ".join(f"{one['rows']} of {one['of']} ({name})" for name, one in facts.items())
    bench.reporter.say(f"utility rows out of the custom set that stay after the trim: {told}")
    return {"trim": config.data.utility.trim, "groups": facts}


def _mean_scores(bench: Workbench) -> tuple[list[str], np.ndarray]:
    """Row ids, and float64 ``[R]``: each row's mean of base loss less degraded loss, in nats."""
    from tosslm.model.adapters import attached_adapters

    base, path = bench.reference_base, rows_of(bench, "utility")
    ids = [row["row_id"] for batch in read_batches(path, ["row_id"]) for row in batch]
    with bench.reporter.task("trimming the utility rows", 2 * len(ids)) as task:
        plain = _row_means(bench, base.model, task.advance)
        with attached_adapters(base, {"degraded": bench.layout.of(degraded(0))}) as model:
            return ids, plain - _row_means(bench, model, task.advance)


def _row_means(bench: Workbench, model: Any, advance: Any) -> np.ndarray:
    from tosslm.model.losses import response_losses

    scoring = bench.config.scoring
    means: list[float] = []
    for rows in read_batches(rows_of(bench, "utility"), TRAINED_COLUMNS, scoring.rows_per_part):
        losses = response_losses(model, rows, batch_tokens=scoring.batch_tokens, advance=advance)
        # A proxy may have no token for a row's answers: it says nothing of the row, so 0.
        means += [float(row.mean(dtype=np.float64)) if len(row) else 0.0 for row in losses]
    return np.array(means)


def without_untrusted(bench: Workbench, rows: Sequence[Mapping[str, Any]]) -> list[Any]:
    """The held-out rows that stay after the trim."""
    stay = trusted_ids(bench.layout, HELD_OUT)
    return [row for row in rows if row["row_id"] in stay]
