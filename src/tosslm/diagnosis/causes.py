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
from tosslm.evaluation.generate import greedy_ids
from tosslm.evaluation.refusals import is_refusal
from tosslm.model.losses import batch_budget, plan_batches, response_losses

FIRST_TOKENS = 16


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
        ``prompts``, ``refused`` (prompts that the base refuses; only they are measured), ``tokens`` (how many of an
        answer), and for each of ``names`` under ``models``: ``harm_learnt`` and ``refusals_forgotten``, each the mean
        over prompts in nats with its interval, and ``refusal_by_position``, how many nats less likely the refusal's
        tokens became, position by position.
    """
    prompts = [list(row["input_ids"][: int(np.flatnonzero(row["response_mask"])[0])]) for row in rows]
    refusals = [(i, own) for i, own in enumerate(own_answers(model, tokenizer, prompts, batch_tokens)) if own]
    result: dict[str, Any] = {"prompts": len(rows), "refused": len(refusals), "tokens": FIRST_TOKENS, "models": {}}
    if not refusals:
        return result
    unsafe, refused = [], []
    for i, own in refusals:
        answer = [
            token for token, responds in zip(rows[i]["input_ids"], rows[i]["response_mask"], strict=True) if responds
        ]
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
            "refusal_by_position": [
                float(np.mean([row[k] for row in forgotten if len(row) > k])) for k in range(longest)
            ],
        }
    return result


def _row(prompt: list[int], answer: list[int]) -> dict[str, Any]:
    return {"input_ids": prompt + answer, "response_mask": [False] * len(prompt) + [True] * len(answer)}


def own_answers(
    model: Any, tokenizer: Any, prompts: Sequence[list[int]], batch_tokens: int
) -> list[list[int] | None]:
    """The first tokens of the base's own answers, greedy, where they open as refusals."""
    lengths = [len(prompt) + FIRST_TOKENS for prompt in prompts]
    batches = plan_batches(lengths, batch_budget(model, batch_tokens))
    with under(model, BASE):
        answers = greedy_ids(model, tokenizer, prompts, batches, max_new_tokens=FIRST_TOKENS)
    return [own if is_refusal(tokenizer.decode(own, skip_special_tokens=True)) else None for own in answers]
