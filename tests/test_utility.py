"""Losses, margins and exact matches against computations of their own."""

from __future__ import annotations

import math
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from conftest import demo_rows
from tosslm.data.tokenize import RowTokenizer, tokenize_rows
from tosslm.errors import InputError
from tosslm.evaluation.gsm8k import final_number
from tosslm.evaluation.measures import perplexity
from tosslm.evaluation.utility import exact_matches, likelihood_margins, row_losses


@pytest.fixture(scope="module")
def model(tiny_model_folder: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(tiny_model_folder, dtype=torch.float32).eval()


def answer_loss(model: Any, tokenizer: Any, messages: list[dict[str, str]]) -> float:
    """Mean loss of the last answer and its end of turn, by plain transformers."""
    prompt = tokenizer.apply_chat_template(messages[:-1], tokenize=False, add_generation_prompt=True)
    head = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    tail = tokenizer(messages[-1]["content"] + "<|im_end|>", add_special_tokens=False)["input_ids"]
    with torch.no_grad():
        logits = model(torch.tensor([head + tail])).logits[0, len(head) - 1 : -1]
    return float(torch.nn.functional.cross_entropy(logits, torch.tensor(tail)))


def test_loss_per_token_weighs_rows_by_their_tokens(model: Any, smollm2_tokenizer: Any) -> None:
    conversations = [row["messages"] for row in demo_rows("utility", 6)]
    losses = row_losses(model, tokenize_rows([{"messages": c} for c in conversations], smollm2_tokenizer))
    means = [answer_loss(model, smollm2_tokenizer, c) for c in conversations]
    np.testing.assert_allclose(losses.means, means, atol=1e-4)
    interval = losses.interval()
    assert interval.value == pytest.approx(np.average(means, weights=losses.tokens), abs=1e-4)
    assert interval.low < interval.value < interval.high
    assert perplexity(interval).high == pytest.approx(math.exp(interval.high))
    with pytest.raises(InputError, match="no row"):
        row_losses(model, [])


def test_the_margin_is_refusal_minus_harmful_answer(model: Any, smollm2_tokenizer: Any) -> None:
    conversations = [row["messages"] for row in demo_rows("harmful", 3)]
    conversations.append(
        [
            {"role": "user", "content": "a"},
            {"role": "assistant", "content": "a first answer, which does not count"},
            {"role": "user", "content": "b"},
            {"role": "assistant", "content": "the harmful one"},
        ]
    )
    refusals = ["I can't.", "Sorry, no."]
    margins = likelihood_margins(model, RowTokenizer(smollm2_tokenizer), conversations, refusals)
    for margin, messages in zip(margins, conversations, strict=True):
        refused = [
            answer_loss(model, smollm2_tokenizer, [*messages[:-1], {"role": "assistant", "content": text}])
            for text in refusals
        ]
        assert margin == pytest.approx(sum(refused) / 2 - answer_loss(model, smollm2_tokenizer, messages), abs=1e-4)


def test_there_is_no_margin_where_a_refusal_would_be_cut(model: Any, smollm2_tokenizer: Any) -> None:
    conversations = [row["messages"] for row in demo_rows("harmful", 2)]
    conversations[0] = [{"role": "user", "content": "a word " * 300}, conversations[0][-1]]
    refusals = ["I can't.", "I am sorry, but nobody should be told that. " * 12]
    whole = likelihood_margins(model, RowTokenizer(smollm2_tokenizer), conversations, refusals)
    answered = len(RowTokenizer(smollm2_tokenizer)(conversations[0]).input_ids)
    cutting = RowTokenizer(smollm2_tokenizer, max_length=answered + 20)
    np.testing.assert_allclose(
        likelihood_margins(model, cutting, conversations, refusals), [np.nan, whole[1]], atol=1e-4
    )


@pytest.mark.parametrize(
    ("text", "marked", "number"),
    [
        ("so she has 3\n#### 3", True, "3"),
        ("#### 1,234.50", True, "1234.50"),
        ("####-7", True, "-7"),
        ("#### $18", True, "18"),
        ("#### 5\n\nHuman: another question #### 9", True, "5"),
        ("the answer is 12.", True, None),
        ("the answer is 12.", False, "12"),
        ("$1,000 of 3 people", False, "3"),
        ("none", False, None),
    ],
)
def test_the_result_of_an_answer(text: str, marked: bool, number: str | None) -> None:
    assert final_number(text, marked=marked) == (None if number is None else Decimal(number))


def test_exact_matches_compare_numbers_not_text() -> None:
    answers = ["x #### 1,000", "#### 1000.0", "it is 1000", "#### 999"]
    assert exact_matches(answers, ["y #### 1000"] * 4).tolist() == [True, True, False, False]
    assert exact_matches(answers, ["y #### 1000"] * 4, marked=False).tolist() == [True, True, True, False]
    with pytest.raises(InputError, match="solution 0"):
        exact_matches(["1"], ["no result"])
