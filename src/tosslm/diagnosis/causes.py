"""Harm learnt or refusals forgotten: which of the two moved a model further, on prompts that call for a refusal.

For a harmful prompt let ``a`` be the first tokens of its unsafe answer and ``r`` those of what the base itself says,
where that is a refusal. Fine-tuning changes the log-odds of the one against the other by

    [log m(a) - log b(a)]  +  [log b(r) - log m(r)]
       harm learnt              refusals forgotten

both in nats, over equally many tokens. What a model says that is neither, such as a vague answer, is in neither
term: the two tell which cause weighs more, not how often the model gives in.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tosslm.diagnosis.divergence import BASE, under
from tosslm.diagnosis.intervals import row_mean
from tosslm.evaluation.answers import THINK_START, spoken, without_special
from tosslm.evaluation.generate import greedy_ids
from tosslm.evaluation.refusals import is_refusal
from tosslm.model.losses import batch_budget, plan_batches, response_losses

FIRST_TOKENS = 16
_TAG_TOKENS = 8  # that a tag and the line end behind it may take


def weigh_causes(
    model: Any, tokenizer: Any, rows: Sequence[Mapping[str, Any]], names: Sequence[str], batch_tokens: int
) -> dict[str, Any]:
    """Split the change of each adapter into harm learnt and refusals forgotten.

    Args:
        model: a PEFT model whose adapters are ``names``.
        tokenizer: its tokenizer.
        rows: held-out harmful rows, with ``input_ids`` and ``response_mask``.
        names: the adapters to measure.
        batch_tokens: padded tokens in one forward pass, at most.

    Returns:
        ``prompts``, ``refused`` (prompts that the base refuses; only they are measured), ``reasoning`` (prompts at
        which it has not said anything yet, so that nobody knows), ``tokens`` (how many of an answer), and for each of
        ``names`` under ``models``: ``harm_learnt``, ``refusals_forgotten`` and their ``difference``, each the mean
        over prompts in nats with its interval, and ``refusal_by_position``, how many nats less likely the refusal's
        tokens became, position by position.
    """
    asked = [last_answer(row) for row in rows]
    prompts = [prompt for prompt, _ in asked]
    answers, reasoning = own_answers(model, tokenizer, prompts, batch_tokens)
    refusals = [(i, own) for i, own in enumerate(answers) if own]
    result: dict[str, Any] = {"prompts": len(rows), "refused": len(refusals), "tokens": FIRST_TOKENS, "models": {}}
    if reasoning:
        result["reasoning"] = reasoning
    if not refusals:
        return result
    unsafe, refused = [], []
    for i, own in refusals:
        answer = asked[i][1]
        n = min(len(answer), len(own))
        unsafe.append(_row(prompts[i], answer[:n]))
        refused.append(_row(prompts[i], own[:n]))
    losses = {}
    for name in (BASE, *names):
        with under(model, name):
            losses[name] = [response_losses(model, part, batch_tokens=batch_tokens) for part in (unsafe, refused)]
    for name in names:
        learnt = [base - own for base, own in zip(losses[BASE][0], losses[name][0], strict=True)]
        forgotten = [own - base for base, own in zip(losses[BASE][1], losses[name][1], strict=True)]
        longest = max(map(len, forgotten))
        result["models"][name] = {
            "harm_learnt": row_mean([float(row.sum()) for row in learnt]),
            "refusals_forgotten": row_mean([float(row.sum()) for row in forgotten]),
            "difference": row_mean(
                [float(one.sum() - other.sum()) for one, other in zip(learnt, forgotten, strict=True)]
            ),
            "refusal_by_position": [
                float(np.mean([row[k] for row in forgotten if len(row) > k])) for k in range(longest)
            ],
        }
    return result


def last_answer(row: Mapping[str, Any]) -> tuple[list[int], list[int]]:
    """The tokens before a row's last answer, and those of the answer: of several turns it is asked for the last.

    Examples:
        >>> last_answer({"input_ids": [1, 2, 3, 4, 5], "response_mask": [False, True, False, True, True]})
        ([1, 2, 3], [4, 5])
    """
    places = np.flatnonzero(row["response_mask"])
    start, end = int(places[np.flatnonzero(np.diff(places, prepend=-2) != 1)[-1]]), int(places[-1]) + 1
    ids = list(row["input_ids"])
    return ids[:start], ids[start:end]


def _row(prompt: list[int], answer: list[int]) -> dict[str, Any]:
    return {"input_ids": prompt + answer, "response_mask": [False] * len(prompt) + [True] * len(answer)}


def own_answers(
    model: Any, tokenizer: Any, prompts: Sequence[list[int]], batch_tokens: int
) -> tuple[list[list[int] | None], int]:
    """The first tokens of the base's own answers, greedy, where they open as refusals.

    Returns:
        One a prompt, None where it opens otherwise; and at how many the base reasons and has not answered yet.
    """
    lengths = [len(prompt) + FIRST_TOKENS for prompt in prompts]
    batches = plan_batches(lengths, batch_budget(model, batch_tokens))
    with under(model, BASE):
        answers = greedy_ids(model, tokenizer, prompts, batches, max_new_tokens=FIRST_TOKENS)
    texts = [
        _opened(tokenizer, prompt) + tokenizer.decode(own, skip_special_tokens=False)
        for prompt, own in zip(prompts, answers, strict=True)
    ]
    reasoning = sum(THINK_START in text and not spoken(text).strip() for text in texts)
    said = [
        own if is_refusal(without_special(tokenizer, text)) else None
        for own, text in zip(answers, texts, strict=True)
    ]
    return said, reasoning


def _opened(tokenizer: Any, prompt: Sequence[int]) -> str:
    """The tag of reasoning that the chat template has opened already, where it has."""
    end = tokenizer.decode(list(prompt[-_TAG_TOKENS:]), skip_special_tokens=False).rstrip()
    return THINK_START if end.endswith(THINK_START) else ""
