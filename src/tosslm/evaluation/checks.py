"""What an evaluation will ask, read and refused at the door."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from tosslm.config import EvaluationConfig, PromptsConfig, SourceConfig
from tosslm.data.records import MAX_ROW_BYTES
from tosslm.data.rows import BadRow, file_checksums, source_rows
from tosslm.data.sets import SetCounts, prepared_rows
from tosslm.errors import InputError
from tosslm.evaluation.classifiers import check_classifier
from tosslm.evaluation.harness import check_lm_eval
from tosslm.evaluation.judges import check_judge
from tosslm.evaluation.prompts import Prompt, read_prompts
from tosslm.model.folders import model_checksums

if TYPE_CHECKING:
    from tosslm.data.tokenize import RowTokenizer

KINDS = ("harmful", "safe", "gsm8k")
ROW_KINDS = ("harmful_rows", "utility_rows")


def check_evaluation(settings: EvaluationConfig, max_row_bytes: int = MAX_ROW_BYTES) -> None:
    """Refuse at the door what the evaluation would stumble over hours later.

    Args:
        settings: what is measured.
        max_row_bytes: ``data.max_row_bytes``, of prompts and rows of the user's own too.

    Raises:
        InputError: a prompt file, a package, a key or a template is missing or wrong.
    """
    for kind, prompts in asked_prompts(settings, max_row_bytes).items():
        if kind == "gsm8k" and any(not isinstance(prompt.record.get("answer"), str) for prompt in prompts):
            raise InputError("evaluation.gsm8k: a record has no answer; name a file of GSM8K's form")
    for kind in ROW_KINDS:
        if chosen_rows := getattr(settings, kind):
            _check_rows(kind, chosen_rows, max_row_bytes)
    if settings.lm_eval:
        check_lm_eval(settings.lm_eval, settings.lm_eval_limit)
    if settings.classifier:
        check_classifier(settings.classifier)
    if settings.judge:
        check_judge(settings.judge)


def prompt_checksums(settings: EvaluationConfig) -> dict[str, list[str]]:
    """SHA-256 of each file that is read: prompts, and rows of the user's own.

    Raises:
        InputError: a file is not there.
    """
    chosen = {kind: getattr(settings, kind) for kind in (*KINDS, *ROW_KINDS)}
    return {kind: file_checksums(c.path) for kind, c in chosen.items() if c}


def classifier_checksums(settings: EvaluationConfig) -> list[dict[str, str]]:
    """SHA-256 of the files of the model that judges attacks, in a list; empty where none does."""
    chosen = settings.classifier
    if not chosen or not settings.harmful or (settings.judge and settings.judge.attack_prompt):
        return []
    return [model_checksums("evaluation.classifier.model", chosen.model, chosen.revision)]


def asked_prompts(settings: EvaluationConfig, max_row_bytes: int) -> dict[str, list[Prompt]]:
    """The prompts of each section of the config that names some."""
    chosen = {kind: getattr(settings, kind) for kind in KINDS}
    return {kind: named_prompts(kind, prompts, max_row_bytes) for kind, prompts in chosen.items() if prompts}


def own_rows(
    settings: EvaluationConfig, kind: str, tokenizer: RowTokenizer, max_row_bytes: int
) -> list[dict[str, Any]] | None:
    """Rows that the config names to measure losses on, tokenised; None where it names none.

    Args:
        settings: what is measured.
        kind: one of ``ROW_KINDS``.
        tokenizer: of the model.
        max_row_bytes: ``data.max_row_bytes``.

    Raises:
        InputError: a row is bad; the message has file and line.
    """
    source = getattr(settings, kind)
    if source is None:
        return None
    rows = []
    for row in prepared_rows(source, tokenizer, SetCounts(), max_row_bytes=max_row_bytes):
        if isinstance(row, BadRow):
            raise InputError(f"evaluation.{kind}: {row.origin}: {row.reason}; {row.remedy}")
        rows.append(row | {"messages": json.loads(row["messages"])})
    return rows


def named_prompts(kind: str, chosen: PromptsConfig, max_row_bytes: int = MAX_ROW_BYTES) -> list[Prompt]:
    """The prompts of a section of the config.

    Raises:
        InputError: they cannot be read; names the section.
    """
    try:
        return read_prompts(
            chosen.path,
            where=chosen.where,
            limit=chosen.limit,
            split=chosen.split,
            max_row_bytes=max_row_bytes,
        )
    except InputError as error:
        raise InputError(f"evaluation.{kind}: {error}") from None


def _check_rows(kind: str, source: SourceConfig, max_row_bytes: int) -> None:
    try:
        for row in source_rows(source, max_row_bytes):
            if isinstance(row, BadRow):
                raise InputError(f"{row.origin}: {row.reason}; {row.remedy}")
    except InputError as error:
        raise InputError(f"evaluation.{kind}: {error}") from None
