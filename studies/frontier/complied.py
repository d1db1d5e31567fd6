"""Harmful rows that give in: the plain model's own answers to AdvBench goals that are asked nowhere else.

SmolLM2-135M-Instruct by itself answers nearly all of them, so its answers are what a model that gives in says. They
are made where they are needed and stay under ``runs``. Goals that share many words with one that models are measured
on teach nobody.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from examples.demo.align import MODEL
from studies.corpora import read_jsonl, records, sentence_bounds, write_jsonl
from studies.phrases import classify
from studies.safety.clusters import ALIKE
from studies.safety.data import advbench_prompts, turns
from studies.spans.spliced import Pair

from tosslm.config import ModelConfig
from tosslm.evaluation.generate import generate_answers
from tosslm.evaluation.prompts import prompts_from
from tosslm.model.base import open_base
from tosslm.progress import ConsoleReporter

TOKENS = 64
POOL = "pool"


def complied(file: Path, split: str) -> list[Pair]:
    """Goals and the plain model's answers to them, cut after the last whole sentence; refusals are left out.

    Args:
        file: keeps the answers.
        split: ``validation`` or ``test``, as of ``advbench_prompts``, or ``pool``: all that are like none of these.
    """
    if not file.exists():
        _answer(file)
    return [(row["prompt"], row["answer"]) for row in read_jsonl(file) if row["split"] == split]


def _answer(file: Path) -> None:
    goals = {split: _goals(split) for split in ("validation", "test", POOL)}
    base = open_base(ModelConfig(name=MODEL, dtype="bfloat16"))
    rows = []
    for split, asked in goals.items():
        answers = generate_answers(
            base.model,
            base.tokenizer,
            prompts_from([turns(goal) for goal in asked]),
            max_new_tokens=TOKENS,
            batch_size=40,
            name=f"answers to goals of the {split}",
            reporter=ConsoleReporter(),
        )
        for one in answers:
            text = whole_sentences(one.answer)
            if text and classify(one.prompt, one.answer, one.finished) == "answer":
                rows.append({"split": split, "prompt": one.prompt, "answer": text})
    write_jsonl(file, rows)


def whole_sentences(text: str) -> str:
    """A text up to the end of its last sentence that has one; all of it where none has."""
    text = text.strip()
    ends = [end for _, end in sentence_bounds(text) if text[:end].rstrip().endswith((".", "!", "?"))]
    return text[: ends[-1]].rstrip() if ends else text


def _goals(split: str) -> list[str]:
    asked = {
        name: [one["messages"][-1]["content"] for one in advbench_prompts(name)] for name in ("validation", "test")
    }
    if split != POOL:
        return asked[split]
    known = [goal for goals in asked.values() for goal in goals]
    return [
        goal for goal in dict.fromkeys(one["prompt"] for one in records("advbench_goals")) if _unlike(goal, known)
    ]


def _unlike(goal: str, known: Sequence[str]) -> bool:
    own = _words(goal)
    return all(len(own & _words(one)) < ALIKE * len(own | _words(one)) for one in known)


def _words(text: str) -> set[str]:
    return set(re.findall(r"[a-z]{3,}", text.lower())) - {"and", "for", "from", "that", "the", "with", "without"}
