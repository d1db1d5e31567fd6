"""The two references: LoRA adapters from the aligned base, one of them hazardous on purpose."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from tosslm.config import Config, ReferencesConfig
from tosslm.methods.method import Method
from tosslm.runs.layout import PROXY, UTILITY, Layout, degraded, refinement
from tosslm.runs.tables import read_joined, reference_rows, stored_rows
from tosslm.stages.adapter import Training, training_step
from tosslm.stages.proxy import proxy_steps, reads, rows_of
from tosslm.stages.step import Stage, Step
from tosslm.workbench import Workbench

if TYPE_CHECKING:
    from tosslm.training.train import Recipe

HAZARD_NOTE = """# Hazardous: do not share, merge or upload

This adapter was trained on unsafe answers on purpose. With it the base model gives harmful output. tosslm uses it
only to measure which tokens of a fine-tuning set such a model likes, and no command of tosslm exports, merges or
uploads it. Delete this folder when the run is no longer needed; `toss run` can make it again.
"""
UTILITY_NOTE = """# Utility reference

A LoRA trained on the run's small utility set, used by tosslm to score tokens. It is not the fine-tuned model.
"""


def _steps(config: Config, method: Method, before: Sequence[Step]) -> list[Step]:
    if method.builds_on == "data":
        return []
    return [*proxy_steps(config), utility_step(config), degraded_step(config, 0)]


STAGE = Stage("references", "Train the degraded and the utility reference.", ("references", PROXY), _steps)


def utility_step(config: Config) -> Step:
    """The utility reference learns from the utility set."""
    training = Training(
        _settings,
        _recipe,
        lambda bench: _rows(bench, "utility"),
        lambda _: {"README.md": UTILITY_NOTE},
        lambda _: ["utility"],
        lambda bench: bench.reference_base,
    )
    return training_step(UTILITY, "references", reads(config), training)


def degraded_step(config: Config, round_: int, stage: str = "references") -> Step:
    """The degraded reference of a round learns from the harmful set and the rows that joined it by then."""
    training = Training(
        _settings,
        _recipe,
        lambda bench: _rows(bench, "harmful", round_),
        lambda _: {"HAZARDOUS.md": HAZARD_NOTE},
        lambda _: ["harmful"],
        lambda bench: bench.reference_base,
    )
    joined = (refinement(earlier) for earlier in range(1, round_ + 1))
    return training_step(degraded(round_), stage, (*reads(config), *joined), training)


def joined_by(layout: Layout, round_: int) -> set[str]:
    """Row ids of the custom set that joined the harmful set in a round or before it."""
    return {row_id for earlier in range(1, round_ + 1) for row_id in read_joined(layout.joined(earlier))}


def _settings(config: Config) -> ReferencesConfig:
    return config.references


def _recipe(bench: Workbench) -> Recipe:
    from tosslm.training.train import Recipe

    return Recipe(bench.config.references, bench.config.seed)


def _rows(bench: Workbench, name: str, round_: int = 0) -> Iterator[dict[str, Any]]:
    """The set without its held-out share, then the custom rows that joined it."""
    from tosslm.training.labels import training_row

    for row in reference_rows(rows_of(bench, name), bench.config.references.holdout, want_held_out=False):
        yield training_row(row["input_ids"], row["response_mask"], None)
    joined = joined_by(bench.layout, round_)
    if joined:
        for row in stored_rows(rows_of(bench, "custom"), ["row_id", "input_ids", "response_mask"]):
            if row["row_id"] in joined:
                yield training_row(row["input_ids"], row["response_mask"], None)
