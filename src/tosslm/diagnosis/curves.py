"""From measures of rows to curves by position and means over all measured tokens; pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from tosslm.diagnosis.divergence import BASE
from tosslm.diagnosis.intervals import position_means, row_mean
from tosslm.ragged import answer_positions
from tosslm.runs.tables import LEAST_SHIFT, MEASURES

Measured = Sequence[Mapping[str, Mapping[str, np.ndarray]]]
"""For each row, by model and measure, a value a response token."""


def position_records(rows: Sequence[Mapping[str, Any]], measured: Measured) -> list[dict[str, Any]]:
    """Each measure of each model over the answers of each set, by position in the answer.

    Args:
        rows: each with its ``set`` and ``response_mask``.
        measured: of the same rows.
    """
    apart = [answer for row, models in zip(rows, measured, strict=True) for answer in _answers(row, models)]
    of_rows, of_answers = [row for row, _ in apart], [models for _, models in apart]
    return [
        {"set": set_name, "model": name, "measure": measure} | point
        for set_name, name, measure, values in _groups(of_rows, of_answers)
        for point in position_means(values)
    ]


def _answers(
    row: Mapping[str, Any], models: Mapping[str, Mapping[str, np.ndarray]]
) -> Iterator[tuple[Mapping[str, Any], dict[str, dict[str, np.ndarray]]]]:
    """A row's measures, those of each of its answers by themselves."""
    starts = np.flatnonzero(answer_positions(np.asarray(row["response_mask"], dtype=bool)) == 0)
    for start, stop in zip(starts, [*starts[1:], None], strict=True):
        yield (
            row,
            {
                name: {measure: values[start:stop] for measure, values in measures.items() if start < len(values)}
                for name, measures in models.items()
            },
        )


def diagnosis_means(rows: Sequence[Mapping[str, Any]], measured: Measured) -> dict[str, Any]:
    """The same over all measured tokens: by set, model and measure ``mean``, ``low``, ``high`` and ``n``."""
    means: dict[str, Any] = {}
    for set_name, name, measure, values in _groups(rows, measured):
        total = row_mean([float(row.sum()) for row in values], [len(row) for row in values])
        means.setdefault(set_name, {}).setdefault(name, {})[measure] = total
    return means


def _groups(rows: Sequence[Mapping[str, Any]], measured: Measured) -> list[tuple[str, str, str, list[np.ndarray]]]:
    found: dict[tuple[str, str, str], list[np.ndarray]] = {}
    for row, models in zip(rows, measured, strict=True):
        for name, measures in models.items():
            for measure in MEASURES:
                if measure in measures and (
                    name != BASE or measure == "loss"
                ):  # the others are 0 there by definition
                    found.setdefault((row["set"], name, measure), []).append(measures[measure])
    return [(*key, values) for key, values in found.items()]


def with_shift(
    first: list[dict[str, float | int | None]], positions: Sequence[Mapping[str, Any]], model: str
) -> list[dict[str, float | int | None]]:
    """Add ``of_shift``: how much of the model's shift on held-out harmful rows falls on the first tokens.

    None where the model hardly moved, since a share of next to nothing says nothing.
    """
    points = [p for p in positions if (p["set"], p["model"], p["measure"]) == ("harmful", model, "shift")]
    sums = np.array([point["mean"] * point["n"] for point in points])
    total, tokens = float(sums.sum()), sum(point["n"] for point in points)
    moved = total > 0 and total >= LEAST_SHIFT * tokens
    return [
        row | {"of_shift": float(sums[: int(row["first"] or 0)].sum() / total) if moved else None} for row in first
    ]
