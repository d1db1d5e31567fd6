"""How much an evaluation reads and writes, told from its prompts and settings alone."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tosslm.config import Config
from tosslm.data.sets import SetCounts
from tosslm.data.template import ChatTemplate
from tosslm.data.tokenize import RowTokenizer
from tosslm.evaluation.asking import asked_text
from tosslm.evaluation.checks import ROW_KINDS, asked_prompts, own_rows
from tosslm.evaluation.prompts import Prompt


@dataclass(frozen=True, slots=True)
class Asked:
    """What an evaluation reads and writes for each model, every answer at its longest.

    Attributes:
        read: tokens of prompts and rows.
        written: new tokens.
        steps: passes in which they are written, one for each new token of a batch of prompts.
    """

    read: float = 0.0
    written: float = 0.0
    steps: int = 0


def evaluation_work(config: Config, tokenizer: RowTokenizer, sets: Mapping[str, SetCounts]) -> Asked:
    """What each model is asked. Tasks of lm-eval, classifiers and judges are not counted.

    Args:
        config: the config.
        tokenizer: of its rows.
        sets: counts of the reference sets, of which a share is held out.

    Raises:
        InputError: a prompt file or a row cannot be read.
    """
    settings, holdout, most = config.evaluation, config.references.holdout, config.data.max_row_bytes
    if not settings.asks:
        return Asked()
    template = ChatTemplate(tokenizer.tokenizer)
    read = 0.0
    asked: list[float] = []
    for kind, prompts in asked_prompts(settings, most).items():
        read += sum(_length(tokenizer, template, prompt, kind) for prompt in prompts)
        asked.append(len(prompts))
    rows, tokens = {}, {}
    for kind in ROW_KINDS:
        own, counts = own_rows(settings, kind, tokenizer, most), sets[kind.removesuffix("_rows")]
        rows[kind] = holdout * counts.rows if own is None else len(own)
        tokens[kind] = holdout * counts.tokens if own is None else sum(len(row["input_ids"]) for row in own)
    if count := min(settings.utility_prompts, rows["utility_rows"]):
        read += count * tokens["utility_rows"] / max(rows["utility_rows"], 1)
        asked.append(count)
    if settings.losses:
        # The margin reads each harmful row once more, and once with each refusal in the answer's place.
        read += tokens["utility_rows"] + tokens["harmful_rows"] * (2 + len(settings.refusals))
    batches = sum(math.ceil(count / settings.batch_size) for count in asked)
    return Asked(read, sum(asked) * settings.max_new_tokens, batches * settings.max_new_tokens)


def _length(tokenizer: RowTokenizer, template: ChatTemplate, prompt: Prompt, kind: str) -> int:
    text = asked_text(template, prompt, f"evaluation.{kind}")
    found: dict[str, Any] = tokenizer.tokenizer(text, add_special_tokens=False, verbose=False)
    return len(found["input_ids"])
