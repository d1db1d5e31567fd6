"""What becomes of reasoning beside answers, and of rows that were cut, in the kinds of export that write messages."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from trl.chat_template_utils import qwen3_training_chat_template

from tosslm import InputError
from tosslm.data.tokenize import RowTokenizer
from tosslm.export import axolotl_text, swift
from tosslm.export.counts import count_rows
from tosslm.export.kind import Job
from tosslm.export.rows import MaskedRow

MESSAGES: list[dict[str, Any]] = [
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "Hello!", "reasoning_content": "They greet me."},
    {"role": "user", "content": "More?"},
    {"role": "assistant", "content": "No.", "reasoning_content": "I have no more to say."},
]


@pytest.fixture(scope="module")
def thinking_tokenizer(smollm2_tokenizer: Any) -> Any:
    """ChatML, as SmolLM2's, with the reasoning of every answer written into its turn."""
    tokenizer = copy.copy(smollm2_tokenizer)
    tokenizer.chat_template = qwen3_training_chat_template
    return tokenizer


def row_of(
    tokenizer: Any, messages: Sequence[dict[str, Any]], context: tuple[int, ...] = (), max_length: int = 2048
) -> MaskedRow:
    """The row as a run that drops nothing would hand it over."""
    row = RowTokenizer(tokenizer, max_length=max_length)(messages, context=context)
    ids, mask = np.array(row.input_ids, dtype=np.int32), np.array(row.response_mask, dtype=bool)
    return MaskedRow(
        row_id="r",
        messages=[dict(message) for message in messages],
        input_ids=ids,
        labels=np.where(mask, ids, -100).astype(np.int32),
        response_mask=mask,
        offsets=np.array(row.offsets, dtype=np.int32).reshape(-1, 3),
        keep=np.ones(int(mask.sum()), dtype=bool),
        weights=mask.astype(np.float32),
        trained=mask,
    )


def job_of(row: MaskedRow) -> Job:
    return Job(count_rows([row]), base="base", adapter="", vocabulary=50_000, eos=2, place="out")


def test_swift_has_the_reasoning_of_a_trained_answer_among_its_tokens(thinking_tokenizer: Any) -> None:
    messages, counts = swift.conversation(row_of(thinking_tokenizer, MESSAGES))
    assert [thinking_tokenizer.decode(messages[i]["content"]["token_ids"]) for i in (1, 3)] == [
        "<think>\nThey greet me.\n</think>\n\nHello!",
        "<think>\nI have no more to say.\n</think>\n\nNo.",
    ]
    assert counts["reasoning_left_out"] == counts["tokens_lost"] == 0


def test_swift_says_what_reasoning_of_the_context_it_leaves_out(thinking_tokenizer: Any, tmp_path: Path) -> None:
    row = row_of(thinking_tokenizer, MESSAGES, context=(1,))
    messages, counts = swift.conversation(row)
    assert messages[1] == {"role": "assistant", "content": "Hello!", "loss": 0}
    assert "I have no more" in thinking_tokenizer.decode(messages[3]["content"]["token_ids"])
    assert counts["reasoning_left_out"] == 1
    [sentence] = swift.KIND.write(iter([row]), tmp_path, job_of(row)).lost
    assert "that of 1 answers which are context is left out" in sentence


def test_swift_does_not_count_reasoning_that_nothing_trained_comes_after(thinking_tokenizer: Any) -> None:
    assert swift.conversation(row_of(thinking_tokenizer, MESSAGES, context=(3,)))[1]["reasoning_left_out"] == 0


def test_swift_counts_the_tokens_of_an_answer_that_is_cut_in_its_reasoning(thinking_tokenizer: Any) -> None:
    whole = row_of(thinking_tokenizer, MESSAGES, context=(1,))
    inside = int(np.flatnonzero(whole.response_mask)[0]) + 5
    messages, counts = swift.conversation(row_of(thinking_tokenizer, MESSAGES, context=(1,), max_length=inside))
    assert messages[3] == {"role": "assistant", "content": "No.", "loss": 0}
    assert counts["tokens_lost"] == 5


LONG = [
    {"role": "user", "content": "Count"},
    {"role": "assistant", "content": "Gladly."},
    {"role": "user", "content": "Go on"},
    {"role": "assistant", "content": "one two three four five six seven eight nine ten " * 3},
    {"role": "user", "content": "And now a long way further than the row is, with many words in it"},
    {"role": "assistant", "content": "eleven"},
]


@pytest.fixture
def cut(smollm2_tokenizer: Any) -> MaskedRow:
    """A row that ends inside its second answer of three."""
    whole = RowTokenizer(smollm2_tokenizer)(LONG[:4])
    return row_of(smollm2_tokenizer, LONG, max_length=len(whole.input_ids) - 10)


def test_swift_does_not_leave_out_a_row_that_was_cut(cut: MaskedRow, smollm2_tokenizer: Any, tmp_path: Path) -> None:
    """ms-swift writes an end of turn behind the answer, and leaves out rows of more than --max_length."""
    messages, _ = swift.conversation(cut)
    assert len(messages) == 4
    assert messages[3]["content"]["token_ids"] == cut.input_ids[-len(messages[3]["content"]["token_ids"]) :].tolist()
    job = job_of(cut)
    [snippet] = swift.KIND.snippets
    shell = snippet.filled(job, swift.KIND.write(iter([cut]), tmp_path, job).facts).replace("\\\n", " ").split()
    written = len(cut.input_ids) + len(smollm2_tokenizer.encode("<|im_end|>\n"))
    assert int(shell[shell.index("--max_length") + 1]) >= written


def test_axolotl_does_not_leave_out_a_row_that_was_cut(cut: MaskedRow, smollm2_tokenizer: Any) -> None:
    """It leaves out rows of more than sequence_len; the answer that was cut is left out by itself, and counted."""
    record, rewritten, lost, _ = axolotl_text.marked(cut)
    assert [message["content"] for message in record["messages"]] == ["Count", "Gladly."]
    assert rewritten == 1
    assert lost == int(cut.trained.sum()) - len(smollm2_tokenizer.encode("Gladly.<|im_end|>"))


def test_axolotl_keeps_reasoning_in_the_text_and_counts_its_tokens_as_lost(
    thinking_tokenizer: Any, tmp_path: Path
) -> None:
    """With `train_detail`, Axolotl looks for labels in a turn's content alone, and the end of the turn."""
    row = row_of(thinking_tokenizer, MESSAGES)
    record, rewritten, lost, let_in = axolotl_text.marked(row)
    assert [message.get("reasoning_content") for message in record["messages"]] == [
        message.get("reasoning_content") for message in MESSAGES
    ]
    said = ["<think>\nThey greet me.\n</think>\n\nHello!", "<think>\nI have no more to say.\n</think>\n\nNo."]
    reasoned, plain = (
        sum(len(thinking_tokenizer.encode(text, add_special_tokens=False)) for text in texts)
        for texts in (said, ["Hello!", "No."])
    )
    assert lost == reasoned - plain
    assert (rewritten, let_in) == (0, 0)
    [sentence] = axolotl_text.KIND.write(iter([row]), tmp_path, job_of(row)).lost
    assert f"{lost:,} trained tokens are lost, those of reasoning among them" in sentence


@pytest.mark.parametrize("name", ["reasoning_content", "reasoning", "thinking"])
def test_axolotl_is_told_what_reasoning_is_called(thinking_tokenizer: Any, tmp_path: Path, name: str) -> None:
    tokenizer = copy.copy(thinking_tokenizer)
    tokenizer.chat_template = qwen3_training_chat_template.replace("reasoning_content", name)
    messages = [{name if key == "reasoning_content" else key: value for key, value in m.items()} for m in MESSAGES]
    row = row_of(tokenizer, messages)
    job = job_of(row)
    [snippet] = axolotl_text.KIND.snippets
    config = yaml.safe_load(snippet.filled(job, axolotl_text.KIND.write(iter([row]), tmp_path, job).facts))
    assert config["datasets"][0]["field_thinking"] == config["datasets"][0]["template_thinking_key"] == name


def test_axolotl_refuses_reasoning_under_two_names(thinking_tokenizer: Any, tmp_path: Path) -> None:
    row = row_of(thinking_tokenizer, MESSAGES)
    row.messages[1]["thinking"] = row.messages[1].pop("reasoning_content")
    with pytest.raises(InputError, match="row r: reasoning is under reasoning_content and thinking in this set"):
        axolotl_text.KIND.write(iter([row]), tmp_path, job_of(row))
