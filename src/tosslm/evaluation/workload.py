"""How much an evaluation reads and writes, told from its prompts and settings alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tosslm.config import Config
from tosslm.data.sets import SetCounts
from tosslm.data.template import ChatTemplate, Messages
from tosslm.data.tokenize import RowTokenizer
from tosslm.evaluation.checks import KINDS, ROW_KINDS, own_rows
from tosslm.evaluation.prompts import read_prompts


def evaluation_tokens(config: Config, tokenizer: RowTokenizer, sets: Mapping[str, SetCounts]) -> int:
    """Tokens that base and fine-tuned model read and write between them.

    Every answer is taken to run to ``max_new_tokens``. Tasks of lm-eval, classifiers and judges are not counted.

    Args:
        config: the config.
        tokenizer: of its rows.
        sets: counts of the reference sets, of which a share is held out.

    Raises:
        InputError: a prompt file or a row cannot be read.
    """
    settings, holdout = config.evaluation, config.references.holdout
    if not settings.asks:
        return 0
    template = ChatTemplate(tokenizer.tokenizer)
    total = 0.0
    for kind in KINDS:
        if chosen := getattr(settings, kind):
            prompts = read_prompts(chosen.path, where=chosen.where, limit=chosen.limit, split=chosen.split)
            total += sum(_length(tokenizer, template, prompt.messages) for prompt in prompts)
            total += len(prompts) * settings.max_new_tokens
    rows, tokens = {}, {}
    for kind in ROW_KINDS:
        own, counts = own_rows(settings, kind, tokenizer), sets[kind.removesuffix("_rows")]
        rows[kind] = holdout * counts.rows if own is None else len(own)
        tokens[kind] = holdout * counts.tokens if own is None else sum(len(row["input_ids"]) for row in own)
    if asked := min(settings.utility_prompts, rows["utility_rows"]):
        total += asked * (tokens["utility_rows"] / max(rows["utility_rows"], 1) + settings.max_new_tokens)
    if settings.losses:
        # The margin reads each harmful row once more, and once with each refusal in the answer's place.
        total += tokens["utility_rows"] + tokens["harmful_rows"] * (2 + len(settings.refusals))
    return round((2 + len(settings.scales)) * total)


def _length(tokenizer: RowTokenizer, template: ChatTemplate, messages: Messages) -> int:
    template.check_tools(messages)
    text = template.render(messages, add_generation_prompt=True)
    found: dict[str, Any] = tokenizer.tokenizer(text, add_special_tokens=False, verbose=False)
    return len(found["input_ids"])
