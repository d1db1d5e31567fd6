"""The evaluation of one model: what it is asked, what is measured, what is written."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tosslm.config import EvaluationConfig, ModelConfig, PromptsConfig, SourceConfig
from tosslm.data.rows import BadRow, raw_files, read_rows
from tosslm.data.sets import SetCounts, prepared_rows
from tosslm.data.tokenize import RowTokenizer
from tosslm.errors import InputError
from tosslm.evaluation.classifiers import check_classifier, classify_attacks
from tosslm.evaluation.generate import Answer, generate_answers, read_answers
from tosslm.evaluation.harness import check_lm_eval, lm_eval_metrics
from tosslm.evaluation.judges import Judge, check_judge
from tosslm.evaluation.measures import Sample, Samples, attack_samples, harmful_samples, metrics_of, safe_samples
from tosslm.evaluation.prompts import Prompt, prompts_from, read_prompts
from tosslm.evaluation.utility import exact_matches, likelihood_margins, row_losses
from tosslm.evaluation.verdicts import judge_attacks, judge_pairs, pair_samples
from tosslm.files import sha256, write_json, write_text
from tosslm.model.base import open_base
from tosslm.progress import Reporter

RESULTS = "results.json"
RESULTS_FORMAT = 1
KINDS = ("harmful", "safe", "gsm8k")
ROW_KINDS = ("harmful_rows", "utility_rows")
Rows = Sequence[Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Subject:
    """A model that is evaluated, in memory.

    Attributes:
        model: with adapters as they are to be measured.
        tokenizer: of its rows.
        method: its name in results.
        seed: of its training; None where it was not trained here.
    """

    model: Any
    tokenizer: RowTokenizer
    method: str
    seed: int | None


def check_evaluation(settings: EvaluationConfig) -> None:
    """Refuse at the door what the evaluation would stumble over hours later.

    Raises:
        InputError: a prompt file, a package, a key or a template is missing or wrong.
    """
    for kind in KINDS:
        chosen: PromptsConfig | None = getattr(settings, kind)
        prompts = _prompts(kind, chosen) if chosen else []
        if kind == "gsm8k" and any(not isinstance(prompt.record.get("answer"), str) for prompt in prompts):
            raise InputError("evaluation.gsm8k: a record has no answer; name a file of GSM8K's form")
    for kind in ROW_KINDS:
        if chosen_rows := getattr(settings, kind):
            _check_rows(kind, chosen_rows)
    if settings.lm_eval:
        check_lm_eval()
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
    return {kind: [sha256(file) for file in raw_files(c.path)] for kind, c in chosen.items() if c}


def own_rows(settings: EvaluationConfig, kind: str, tokenizer: RowTokenizer) -> list[dict[str, Any]] | None:
    """Rows that the config names to measure losses on, tokenised; None where it names none.

    Args:
        settings: what is measured.
        kind: one of ``ROW_KINDS``.
        tokenizer: of the model.

    Raises:
        InputError: a row is bad; the message has file and line.
    """
    source = getattr(settings, kind)
    if source is None:
        return None
    rows = []
    for row in prepared_rows(source, tokenizer, SetCounts()):
        if isinstance(row, BadRow):
            raise InputError(f"evaluation.{kind}: {row.origin}: {row.reason}; {row.remedy}")
        rows.append(row | {"messages": json.loads(row["messages"])})
    return rows


def evaluate_model(
    subject: Subject,
    settings: EvaluationConfig,
    *,
    harmful_rows: Rows,
    utility_rows: Rows,
    folder: Path,
    work: Path,
    verdicts: Path,
    rival: Path | None,
    seed: int,
    reporter: Reporter,
) -> dict[str, Any]:
    """Measure a model and write ``record.json``, ``samples.json`` and its answers.

    Args:
        subject: the model.
        settings: what is measured.
        harmful_rows: harmful rows to measure losses on, where the settings name none: ``row_id``, ``messages``
            (a list), ``input_ids``, ``response_mask``; may be empty.
        utility_rows: likewise utility rows.
        folder: where the results go.
        work: a private folder for answers of a killed evaluation.
        verdicts: file that keeps what a judge said.
        rival: folder of the model that the judge compares with.
        seed: of intervals and sampling.
        reporter: where progress goes.

    Returns:
        The record: ``method``, ``seed``, ``metrics``.
    """
    harmful_rows, utility_rows = (
        given if (own := own_rows(settings, kind, subject.tokenizer)) is None else own
        for kind, given in zip(ROW_KINDS, (harmful_rows, utility_rows), strict=True)
    )
    asked = {kind: _prompts(kind, chosen) for kind in KINDS if (chosen := getattr(settings, kind))}
    if settings.utility_prompts and utility_rows:
        conversations = [row["messages"] for row in utility_rows]
        asked["utility"] = prompts_from(conversations[: settings.utility_prompts])
    samples, answers = _ask(subject, settings, asked, work, seed, reporter)
    if settings.losses:
        samples |= _loss_samples(subject, settings, harmful_rows, utility_rows)
    metrics = metrics_of(samples, seed)
    if settings.lm_eval:
        found = lm_eval_metrics(
            subject.model,
            subject.tokenizer.tokenizer,
            settings.lm_eval,
            batch_size=settings.batch_size,
            limit=settings.lm_eval_limit,
            seed=seed,
        )
        metrics |= {name: interval.as_dict() for name, interval in found.items()}
    judged = _judged_samples(answers, settings, verdicts, rival, reporter)
    samples |= judged
    metrics |= metrics_of(judged, seed)
    record = {"method": subject.method, "seed": subject.seed, "metrics": metrics}
    for kind, said in answers.items():
        lines = (json.dumps(asdict(answer), ensure_ascii=False) + "\n" for answer in said)
        write_text(folder / f"{kind}.jsonl", "".join(lines))
    write_json(folder / "samples.json", {name: sample.as_dict() for name, sample in samples.items()})
    write_json(folder / "record.json", record)
    return record


def write_results(path: Path, records: Sequence[Mapping[str, Any]]) -> None:
    """Write a results file."""
    write_json(path, {"format": RESULTS_FORMAT, "records": list(records)})


def read_results(path: Path) -> list[dict[str, Any]]:
    """The records of a results file.

    Raises:
        InputError: there is none, or it is of another format.
    """
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
        if results["format"] != RESULTS_FORMAT:
            raise InputError(
                f"{path}: format {results['format']!r} is not {RESULTS_FORMAT}, which this version reads"
            )
        return results["records"]
    except FileNotFoundError:
        raise InputError(f"{path}: no results there; name prompts under evaluation in the config") from None


def read_record(folder: Path) -> dict[str, Any]:
    """The record of one model."""
    return json.loads((folder / "record.json").read_text(encoding="utf-8"))


def read_samples(folder: Path) -> Samples:
    """The values of one model, prompt by prompt."""
    samples = json.loads((folder / "samples.json").read_text(encoding="utf-8"))
    return {name: Sample.from_dict(sample) for name, sample in samples.items()}


def _prompts(kind: str, chosen: PromptsConfig) -> list[Prompt]:
    try:
        return read_prompts(chosen.path, where=chosen.where, limit=chosen.limit, split=chosen.split)
    except InputError as error:
        raise InputError(f"evaluation.{kind}: {error}") from None


def _check_rows(kind: str, source: SourceConfig) -> None:
    empty = True
    try:
        for row in read_rows(source.path, format=source.format, field=source.field, split=source.split):
            empty = False
            if isinstance(row, BadRow):
                raise InputError(f"{row.origin}: {row.reason}; {row.remedy}")
    except InputError as error:
        raise InputError(f"evaluation.{kind}: {error}") from None
    if empty:
        raise InputError(f"evaluation.{kind}: {source.path} has no row; name a file with rows in it")


def _ask(
    subject: Subject,
    settings: EvaluationConfig,
    asked: Mapping[str, list[Prompt]],
    work: Path,
    seed: int,
    reporter: Reporter,
) -> tuple[Samples, dict[str, list[Answer]]]:
    samples: Samples = {}
    answers: dict[str, list[Answer]] = {}
    for kind, prompts in asked.items():
        said = answers[kind] = generate_answers(
            subject.model,
            subject.tokenizer.tokenizer,
            prompts,
            out=work / f"{kind}.jsonl",
            max_new_tokens=settings.max_new_tokens,
            batch_size=settings.batch_size,
            temperature=settings.temperature,
            seed=seed,
            name=f"{subject.method}: {kind} prompts",
            reporter=reporter,
        )
        if kind == "harmful":
            samples |= harmful_samples(said)
        elif kind == "safe":
            samples |= safe_samples(said)
        elif kind == "utility":
            samples["utility_refusal"] = harmful_samples(said)["refusal_rate"]
        else:
            solutions = [prompt.record["answer"] for prompt in prompts]
            right = exact_matches([a.answer for a in said], solutions, marked=settings.gsm8k_result == "marked")
            samples["gsm8k"] = Sample([a.prompt_id for a in said], right.astype(np.float64))
    return samples, answers


def _loss_samples(subject: Subject, settings: EvaluationConfig, harmful_rows: Rows, utility_rows: Rows) -> Samples:
    samples: Samples = {}
    for name, rows in (("harmful_loss", harmful_rows), ("utility_loss", utility_rows)):
        if rows:
            losses = row_losses(subject.model, rows)
            samples[name] = Sample([row["row_id"] for row in rows], losses.means, losses.tokens.astype(np.float64))
    # Of a row that was cut, the answer's end is missing, or all of it where a refusal would stand.
    whole = [row for row in harmful_rows if len(row["input_ids"]) < subject.tokenizer.max_length]
    whole = [row for row in whole if row["messages"][-1]["role"] == "assistant"]
    if whole:
        conversations = [row["messages"] for row in whole]
        margins = likelihood_margins(subject.model, subject.tokenizer, conversations, settings.refusals)
        samples["likelihood_margin"] = Sample([row["row_id"] for row in whole], margins)
    return samples


def _judged_samples(
    answers: Mapping[str, Sequence[Answer]],
    settings: EvaluationConfig,
    verdicts: Path,
    rival: Path | None,
    reporter: Reporter,
) -> Samples:
    samples: Samples = {}
    harmful = answers.get("harmful", [])
    judge = Judge(settings.judge, verdicts) if settings.judge and answers else None
    if judge and judge.config.attack_prompt and harmful:
        samples |= attack_samples(harmful, judge_attacks(judge, harmful, reporter))
    elif settings.classifier and harmful:
        reporter.say(f"classifier: {settings.classifier.model}")
        chosen = {"name": settings.classifier.model, "revision": settings.classifier.revision}
        found = open_base(ModelConfig.model_validate(chosen))
        samples |= attack_samples(
            harmful, classify_attacks(found.model, found.tokenizer, harmful, settings.classifier)
        )
    if judge and rival is not None:
        samples |= pair_samples(
            {
                metric: judge_pairs(judge, answers[kind], read_answers(rival / f"{kind}.jsonl"), reporter)
                for metric, kind in (("win_rate", "harmful"), ("win_rate_safe", "safe"))
                if kind in answers
            }
        )
    return samples
