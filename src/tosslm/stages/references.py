"""The two references: LoRA adapters from the aligned base, one of them hazardous on purpose."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from tosslm.config import Config, ReferencesConfig
from tosslm.data.own_utility import FOLDS
from tosslm.errors import InputError
from tosslm.methods.guard import guarded
from tosslm.methods.method import Method
from tosslm.methods.needs import guard_parts
from tosslm.ragged import split_rows
from tosslm.runs.layout import DATA, PROXY, TRUSTED, UTILITY, Layout, degraded, refinement, utility_fold
from tosslm.runs.ranking import check_held_out
from tosslm.runs.tables import TRAINED_COLUMNS, read_joined, reference_rows, stored_rows
from tosslm.stages.adapter import Training, training_step
from tosslm.stages.own_utility import trusted_ids, trusted_step
from tosslm.stages.proxy import proxy_steps, reads, rows_of
from tosslm.stages.step import Stage, Step
from tosslm.workbench import Workbench

if TYPE_CHECKING:
    from tosslm.training.train import Recipe

HAZARD_NOTE = """# Hazardous: do not share, merge or upload

This adapter was trained on unsafe answers on purpose. With it the base model gives harmful output. tosslm uses it
only to measure which tokens of a fine-tuning set such a model likes, and no command of tosslm exports, merges or
uploads it. Delete this folder when the run is done: nothing trains it again but a step that reads it and is to be
done anew.
"""
UTILITY_NOTE = """# Utility reference

A LoRA trained on the run's small utility set, used by tosslm to score tokens. It is not the fine-tuned model.
"""


FOLD_NOTE = """# Utility reference of one half

A LoRA trained on rows of the run's custom set that look least risky, for there is no utility set; used by tosslm to
score the tokens of the other half. It is not the fine-tuned model.
"""


def _steps(config: Config, method: Method, before: Sequence[Step]) -> list[Step]:
    if method.builds_on == "data":
        return []
    if config.data.utility.of_custom:
        folds = [fold_step(config, fold) for fold in FOLDS]
        return [*proxy_steps(config), degraded_step(config, 0), trusted_step(config), *folds]
    return [*proxy_steps(config), utility_step(config), degraded_step(config, 0)]


STAGE = Stage("references", ("references", PROXY, TRUSTED), _steps)


def utility_step(config: Config) -> Step:
    """The utility reference learns from the utility set."""
    training = Training(
        _settings,
        _recipe,
        _utility_rows,
        lambda _: {"README.md": UTILITY_NOTE},
        lambda _: ["utility"],
        lambda bench: bench.reference_base,
    )
    return training_step(UTILITY, "references", reads(config), training)


def fold_step(config: Config, fold: int) -> Step:
    """A utility reference that learns from the trusted rows of one fold of the custom set, and scores the other."""
    training = Training(
        _settings,
        _recipe,
        lambda bench: _fold_rows(bench, fold),
        lambda _: {"README.md": FOLD_NOTE},
        lambda _: ["utility", fold],
        lambda bench: bench.reference_base,
    )
    return training_step(utility_fold(fold), "references", (*reads(config), TRUSTED), training)


def degraded_step(config: Config, round_: int, stage: str = "references") -> Step:
    """The degraded reference of a round learns from the harmful set and the rows that joined it by then.

    With ``references.harmful_tokens: guard`` it learns only what the guard calls unsafe of both; a row of which that
    is nothing is left out.
    """
    training = Training(
        _settings,
        _recipe,
        lambda bench: _harmful_rows(bench, round_),
        lambda _: {"HAZARDOUS.md": HAZARD_NOTE, ".gitignore": "*\n"},
        lambda bench: ["harmful", *_guard_covers(bench)],
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


def _guard_covers(bench: Workbench) -> list[Any]:
    return ["guard", *guard_parts(bench)] if bench.config.references.harmful_tokens == "guard" else []


def _harmful_rows(bench: Workbench, round_: int) -> Iterator[dict[str, Any]]:
    """The harmful set without its held-out share, then the custom rows that joined it."""
    if bench.config.data.utility.of_custom:  # its references are trained after this one
        _check_sets(bench)
    if bench.config.references.harmful_tokens == "all":
        yield from _training_rows(_reference_rows(bench, "harmful"))
        yield from _training_rows(_joined_rows(bench, round_))
        return
    found, left_out = 0, 0
    for name, rows in (("harmful", _reference_rows(bench, "harmful")), ("custom", _joined_rows(bench, round_))):
        wanted = {row["row_id"] for row in rows}
        for row in _unsafe_rows(bench, name, wanted) if wanted else ():
            learns = any(label >= 0 for label in row["labels"])
            found, left_out = found + learns, left_out + (not learns)
            if learns:
                yield row
    if not found:
        raise InputError(
            "references.harmful_tokens: the guard calls nothing of the harmful rows unsafe; look at compare.guard's "
            "prompt and words, or set it to all"
        )
    if left_out:
        bench.reporter.say(
            f"{left_out} of {found + left_out} harmful rows are left out: the guard finds nothing unsafe"
        )


def _unsafe_rows(bench: Workbench, name: str, wanted: set[str]) -> Iterator[dict[str, Any]]:
    """Training rows of a set, of each the tokens that the guard calls unsafe."""
    from tosslm.evaluation.classifiers import classify_attacks
    from tosslm.training.labels import training_row

    path = bench.layout.rows(name)
    rows = [row for row in stored_rows(path, (*TRAINED_COLUMNS, "messages", "offsets")) if row["row_id"] in wanted]
    marks = guarded(bench, rows, classify_attacks) == 1
    for row, unsafe in zip(rows, split_rows(marks, [sum(row["response_mask"]) for row in rows]), strict=True):
        yield training_row(row["input_ids"], row["response_mask"], unsafe)


def _utility_rows(bench: Workbench) -> Iterator[dict[str, Any]]:
    _check_sets(bench)
    return _training_rows(_reference_rows(bench, "utility"))


def _fold_rows(bench: Workbench, fold: int) -> Iterator[dict[str, Any]]:
    stay = trusted_ids(bench.layout, f"fold-{fold}")
    return _training_rows(row for row in _reference_rows(bench, "utility") if row["row_id"] in stay)


def _check_sets(bench: Workbench) -> None:
    sets = bench.folder.stages[DATA]["sets"]
    contents = {name: sets[name]["rows"] - sets[name].get("repeated", 0) for name in ("harmful", "utility")}
    check_held_out(bench.config, contents)


def _reference_rows(bench: Workbench, name: str) -> Iterator[dict[str, Any]]:
    """A reference set without its held-out share."""
    share = bench.config.references.holdout
    return reference_rows(rows_of(bench, name), share, want_held_out=False)


def _joined_rows(bench: Workbench, round_: int) -> Iterator[dict[str, Any]]:
    """The custom rows that joined the harmful set in a round or before it."""
    if joined := joined_by(bench.layout, round_):
        rows = stored_rows(rows_of(bench, "custom"), TRAINED_COLUMNS)
        yield from (row for row in rows if row["row_id"] in joined)


def _training_rows(rows: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    from tosslm.training.labels import training_row

    for row in rows:
        yield training_row(row["input_ids"], row["response_mask"], None)
