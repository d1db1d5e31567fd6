"""What a chat template does without a word: every kind is told, or refused where a text is lost.

The templates are SmolLM2's with one thing changed, and the tokenizer is the real one.
"""

from __future__ import annotations

import copy
from typing import Any

import pytest
from transformers import LlamaConfig, LlamaForCausalLM

from tosslm.data.habits import template_habits, turn_ends
from tosslm.data.tokenize import RowTokenizer
from tosslm.errors import RowError
from tosslm.evaluation.generate import stop_tokens

TURN = "{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}"
PROMPT = "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
ROW = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "How do I wash a jumper?"},
    {"role": "assistant", "content": "By hand."},
    {"role": "user", "content": "And a carpet?"},
    {"role": "assistant", "content": "With foam."},
]


def with_template(tokenizer: Any, turn: str = TURN, *, before: str = "", after: str = PROMPT) -> RowTokenizer:
    changed = copy.deepcopy(tokenizer)
    changed.chat_template = before + "{% for m in messages %}" + turn + "{% endfor %}" + after
    return RowTokenizer(changed)


def test_of_a_template_that_does_nothing_of_the_kind_nothing_is_said(smollm2_tokenizer: Any) -> None:
    for tokenize in (RowTokenizer(smollm2_tokenizer), with_template(smollm2_tokenizer)):
        assert template_habits(tokenize) == []
        assert turn_ends(tokenize) == [smollm2_tokenizer.convert_tokens_to_ids("<|im_end|>")]
        assert tokenize(ROW).lost == []


def test_the_date_of_the_day_is_told(smollm2_tokenizer: Any) -> None:
    today = "{{ '<|im_start|>system\nToday is ' + strftime_now('%d %b %Y') + '<|im_end|>\n' }}"
    (told,) = template_habits(with_template(smollm2_tokenizer, before=today))
    assert "on another day the tokens are others" in told


def test_a_date_that_the_template_asks_for_and_never_writes_is_not_told(smollm2_tokenizer: Any) -> None:
    unused = "{% set today = strftime_now('%d %b %Y') %}"
    assert template_habits(with_template(smollm2_tokenizer, before=unused)) == []


@pytest.mark.parametrize(
    ("turn", "said"),
    [
        (TURN.replace("<|im_end|>", ""), "writes nothing there"),
        (TURN.replace("<|im_end|>", "<|eot|>"), "writes '<|eot|>' there, which is no token of its own"),
    ],
)
def test_an_answer_that_the_template_never_ends_is_told(smollm2_tokenizer: Any, turn: str, said: str) -> None:
    (told,) = template_habits(with_template(smollm2_tokenizer, turn))
    assert said in told
    assert "<|im_end|>" in told  # which the tokenizer ends a turn with


def test_a_header_that_is_trained_as_part_of_the_answer_is_told(smollm2_tokenizer: Any) -> None:
    (told,) = template_habits(with_template(smollm2_tokenizer, after=""))
    assert r"'<|im_start|>assistant\n', which it writes before an answer, is trained" in told


def test_a_system_message_that_the_template_leaves_out_is_refused(smollm2_tokenizer: Any) -> None:
    tokenize = with_template(smollm2_tokenizer, f"{{% if m['role'] != 'system' %}}{TURN}{{% endif %}}")
    with pytest.raises(RowError, match="has a system message, and the chat template has no place for it"):
        tokenize(ROW)
    assert tokenize(ROW[1:]).lost == []


def test_a_system_message_that_stands_in_the_first_users_turn_is_not_lost(smollm2_tokenizer: Any) -> None:
    joined = (
        "{% if m['role'] == 'user' %}{{ '<|im_start|>user\n' }}{% if loop.index0 == 1 %}"
        "{{ messages[0]['content'] + '\n\n' }}{% endif %}{{ m['content'] + '<|im_end|>\n' }}"
        f"{{% elif m['role'] == 'assistant' %}}{TURN}{{% endif %}}"
    )
    assert with_template(smollm2_tokenizer, joined)(ROW).lost == []


def test_a_users_turn_that_the_template_shortens_counts_as_lost(smollm2_tokenizer: Any) -> None:
    tokenize = with_template(smollm2_tokenizer, TURN.replace("m['content']", "m['content'][:14]"))
    assert tokenize(ROW).lost == [[1, 0, len(ROW[1]["content"])]]  # the others are short enough


def test_a_thinking_block_before_the_text_ends_no_answer(smollm2_tokenizer: Any) -> None:
    """As Qwen3's: the tags are tokens of their own, and generation that stops at the first one says nothing."""
    turn = (
        "{{ '<|im_start|>' + m['role'] + '\n' }}{% if m['role'] == 'assistant' %}{{ '<think>\n\n</think>\n\n' }}"
        "{% endif %}{{ m['content'] + '<|im_end|>\n' }}"
    )
    changed = copy.deepcopy(smollm2_tokenizer)
    changed.add_tokens(["<think>", "</think>"])
    tokenize = with_template(changed, turn)
    end = changed.convert_tokens_to_ids("<|im_end|>")
    assert turn_ends(tokenize) == [end]
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(changed),
            hidden_size=8,
            intermediate_size=8,
            num_hidden_layers=1,
            num_attention_heads=1,
            eos_token_id=end,
        )
    )
    assert stop_tokens(model, tokenize.tokenizer) == [end]
    assert template_habits(tokenize) == []
