"""The evaluation of one model: what it is asked, what is measured, what is written."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tosslm.config import EvaluationConfig, ModelConfig
from tosslm.data.tokenize import RowTokenizer
from tosslm.evaluation.answers import Answer, read_answers
from tosslm.evaluation.checks import ROW_KINDS, asked_prompts, own_rows
from tosslm.evaluation.classifiers import classify_attacks
from tosslm.evaluation.generate import generate_answers
from tosslm.evaluation.harness import check_tasks, lm_eval_metrics
from tosslm.evaluation.judges import Judge
from tosslm.evaluation.measures import Sample, Samples, answer_samples, attack_samples, metrics_of
from tosslm.evaluation.prompts import Prompt, prompts_from
from tosslm.evaluation.utility import exact_matches, likelihood_margins, row_losses
from tosslm.evaluation.verdicts import judge_attacks, judge_pairs, pair_samples
from tosslm.files import write_json, write_text
from tosslm.model.base import Keys, open_base
from tosslm.progress import Reporter

Rows = Sequence[Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Subject:
    """A model that is evaluated, in memory.

    Attributes:
        model: with adapters as they are to be measured.
        tokenizer: of its rows.
        method: its name in results.
        seed: of its training; None where it was not trained here.
        scale: of its adapter; None is the adapter as it was trained.
    """

    model: Any
    tokenizer: RowTokenizer
    method: str
    seed: int | None
    scale: float | None = None


@dataclass(frozen=True, slots=True)
class Places:
    """Where an evaluation writes and reads.

    Attributes:
        folder: where the results go.
        work: a private folder for answers of a killed evaluation.
        verdicts: file that keeps what a judge said.
        rival: folder of the answers that the judge compares with; None for none.
    """

    folder: Path
    work: Path
    verdicts: Path
    rival: Path | None = None


def evaluate_model(
    subject: Subject,
    settings: EvaluationConfig,
    held_out: Mapping[str, Rows],
    places: Places,
    *,
    seed: int,
    max_row_bytes: int,
    reporter: Reporter,
) -> dict[str, Any]:
    """Measure a model and write ``record.json``, ``samples.json`` and its answers.

    Args:
        subject: the model.
        settings: what is measured.
        held_out: rows to measure losses on where the settings name none, under ``harmful`` and ``utility``:
            ``row_id``, ``messages`` (a list), ``input_ids``, ``response_mask``; may be empty.
        places: where it writes and reads.
        seed: of intervals and sampling.
        max_row_bytes: ``data.max_row_bytes``, of prompts and rows that the settings name.
        reporter: where progress goes.

    Returns:
        The record: ``method``, ``seed``, ``metrics``.
    """
    harmful_rows, utility_rows = (
        held_out[kind.removesuffix("_rows")]
        if (own := own_rows(settings, kind, subject.tokenizer, max_row_bytes)) is None
        else own
        for kind in ROW_KINDS
    )
    asked = asked_prompts(settings, max_row_bytes)
    if settings.utility_prompts and utility_rows:
        conversations = [row["messages"] for row in utility_rows]
        asked["utility"] = prompts_from(conversations[: settings.utility_prompts])
    if settings.lm_eval:
        check_tasks(settings.lm_eval)
    for told in unseen_told(settings, asked):
        reporter.say(told)
    samples, answers = _ask(subject, settings, asked, places.work, seed, reporter)
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
    judged = _judged_samples(answers, settings, places, subject.model.device.type, reporter)
    samples |= judged
    metrics |= metrics_of(judged, seed)
    scaled = {} if subject.scale is None else {"scale": subject.scale}
    record = {"method": subject.method, "seed": subject.seed, **scaled, "metrics": metrics}
    for kind, said in answers.items():
        lines = (json.dumps(asdict(answer), ensure_ascii=False) + "\n" for answer in said)
        write_text(places.folder / f"{kind}.jsonl", "".join(lines))
    write_json(places.folder / "samples.json", {name: sample.as_dict() for name, sample in samples.items()})
    write_json(places.folder / "record.json", record)
    return record


def unseen_told(settings: EvaluationConfig, asked: Mapping[str, Sequence[Prompt]]) -> list[str]:
    """What of the prompts those that judge answers are not shown: all before the last user's turn."""
    judged = {"harmful": settings.judge or settings.classifier, "safe": settings.judge}
    several = {
        kind: sum(len(prompt.messages) > 1 for prompt in prompts)
        for kind, prompts in asked.items()
        if judged.get(kind)
    }
    return [
        f"evaluation.{kind}: of {count:,} prompts judge and classifier see the last turn alone, with its answer, not "
        "what stands before it"
        for kind, count in several.items()
        if count
    ]


def unspoken_told(kind: str, answers: Sequence[Answer]) -> str | None:
    """That models were cut off before they had said anything; None where none was."""
    count = sum(not answer.finished and not answer.spoken and bool(answer.answer) for answer in answers)
    if not count:
        return None
    return (
        f"evaluation.{kind}: {count:,} of {len(answers):,} answers were cut off while the model still reasoned, and "
        "count as incoherent; raise evaluation.max_new_tokens"
    )


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
            name=f"{subject.method}{'' if subject.scale is None else f' x {subject.scale:g}'}: {kind} prompts",
            reporter=reporter,
        )
        if told := unspoken_told(kind, said):
            reporter.say(told)
        samples |= answer_samples(kind, said)
        if kind == "gsm8k":
            solutions = [prompt.record["answer"] for prompt in prompts]
            right = exact_matches([a.spoken for a in said], solutions, marked=settings.gsm8k_result == "marked")
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
    whole = [row for row in whole if row["messages"][-1]["role"] == "assistant" and last_is_response(row)]
    conversations = [row["messages"] for row in whole]
    margins = likelihood_margins(subject.model, subject.tokenizer, conversations, settings.refusals)
    if (fit := ~np.isnan(margins)).any():
        ids = [row["row_id"] for row, fits in zip(whole, fit, strict=True) if fits]
        samples["likelihood_margin"] = Sample(ids, margins[fit])
    return samples


def _judged_samples(
    answers: Mapping[str, Sequence[Answer]],
    settings: EvaluationConfig,
    places: Places,
    device: str,
    reporter: Reporter,
) -> Samples:
    samples: Samples = {}
    harmful = answers.get("harmful", [])
    judge = Judge(settings.judge, places.verdicts) if settings.judge and answers else None
    if judge and judge.config.attack_prompt and harmful:
        samples |= attack_samples(harmful, judge_attacks(judge, harmful, reporter))
    elif settings.classifier and harmful:
        reporter.say(f"classifier: {settings.classifier.model}")
        chosen = {
            "name": settings.classifier.model,
            "revision": settings.classifier.revision,
            "device": device,
        }
        found = open_base(ModelConfig.model_validate(chosen), Keys("evaluation.classifier.model", ""))
        samples |= attack_samples(
            harmful, classify_attacks(found.model, found.tokenizer, harmful, settings.classifier)
        )
    if judge and places.rival is not None:
        samples |= pair_samples(
            {
                metric: judge_pairs(judge, answers[kind], read_answers(places.rival / f"{kind}.jsonl"), reporter)
                for metric, kind in (("win_rate", "harmful"), ("win_rate_safe", "safe"))
                if kind in answers
            }
        )
    return samples


def last_is_response(row: Mapping[str, Any]) -> bool:
    """Whether the data leave a row's last answer to be trained; one with ``weight: 0`` is no answer to measure."""
    answers = {message for message, _, _ in row.get("offsets", ()) if message >= 0}
    return not answers or len(row["messages"]) - 1 in answers
