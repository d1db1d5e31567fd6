"""What a run refuses before anything is done, and its plan in the same words."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

from tosslm.config import Config
from tosslm.door import check_overrides, check_places
from tosslm.methods import method_of
from tosslm.methods.method import Method
from tosslm.methods.needs import GUARD
from tosslm.runs.decisions import read_by_hand
from tosslm.runs.layout import DATA, SELECTION
from tosslm.stages.step import Step
from tosslm.tracking import check_trackers
from tosslm.workbench import Workbench


def check_before(config: Config, method: Method, stages: Collection[str]) -> None:
    """Refuse what a stage would stumble over hours later.

    Args:
        config: the config, with what its method sets.
        method: the method.
        stages: that have something to do, by name.

    Raises:
        InputError: names the key.
    """
    check_trackers(config.report_to)
    check_places(config)
    method.find(config)
    if "references" in stages and config.references.harmful_tokens == "guard":
        GUARD.find(config)
    check_overrides(config, selects=method.trains)
    if "evaluate" in stages and config.evaluation.asks:
        from tosslm.evaluation.checks import check_evaluation

        check_evaluation(config.evaluation, config.data.max_row_bytes)


def check_known(wanted: Sequence[Step], bench: Workbench) -> None:
    """Refuse, once the data are there and before anything is trained, what selection would find that they lack.

    Raises:
        InputError: names file and line of a decision that does not fit them, or what a method goes by.
    """
    if not any(step.name == SELECTION and not bench.folder.is_current(step.name) for step in wanted):
        return
    if suits := method_of(bench.config).suits:
        suits(bench.config, bench.folder.stages[DATA]["sets"])
    if path := bench.config.selection.overrides:
        read_by_hand(Path(path), bench.layout)


def check_questions(wanted: Sequence[Step], bench: Workbench) -> None:
    """Refuse prompts and rows of the evaluation that the chat template does not take; nothing where it is done.

    Raises:
        InputError: names the key, and the prompt or the row.
    """
    if any(step.stage == "evaluate" and not bench.folder.is_current(step.name) for step in wanted):
        from tosslm.evaluation.asking import check_asked

        check_asked(bench.config.evaluation, bench.tokenizer, bench.config.data.max_row_bytes)
