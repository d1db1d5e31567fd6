"""Answers of the very small model: the same batched, padded, resumed, or one by one."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from conftest import DEMO
from test_tokenize import trl_template
from tosslm.data.rows import content_id
from tosslm.data.template import ChatTemplate
from tosslm.errors import InputError
from tosslm.evaluation import generate
from tosslm.evaluation.answers import read_answers
from tosslm.evaluation.generate import generate_answers, stop_tokens
from tosslm.evaluation.prompts import Prompt, prompts_from, read_prompts


def lively(folder: Path) -> Any:
    """The very small model with large weights: as it is, it only repeats the prompt's last token."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "proj" in name:
                weight.mul_(20)
    return model


@pytest.fixture(scope="module")
def model(tiny_model_folder: Path) -> Any:
    return lively(tiny_model_folder)


@pytest.fixture(scope="module")
def prompts() -> list[Prompt]:
    return read_prompts(str(DEMO / "data" / "prompts.jsonl"), limit=11)


def one_by_one(model: Any, tokenizer: Any, prompt: Prompt, count: int) -> list[int]:
    """Greedy decoding with no padding and no cache."""
    ids = tokenizer.apply_chat_template(prompt.messages, add_generation_prompt=True, return_dict=False)
    start = len(ids)
    for _ in range(count):
        with torch.no_grad():
            ids = [*ids, int(model(torch.tensor([ids])).logits[0, -1].argmax())]
    return ids[start:]


def test_batched_answers_are_those_of_a_plain_loop(model: Any, smollm2_tokenizer: Any, prompts: list[Prompt]) -> None:
    answers = generate_answers(model, smollm2_tokenizer, prompts, max_new_tokens=12, batch_size=4)
    assert len({answer.answer for answer in answers}) == len(prompts)
    for prompt, answer in zip(prompts, answers, strict=True):
        ids = one_by_one(model, smollm2_tokenizer, prompt, 12)
        ends = [i for i, token in enumerate(ids) if token == smollm2_tokenizer.eos_token_id]
        text = smollm2_tokenizer.decode(ids[: ends[0]] if ends else ids, skip_special_tokens=True)
        assert (answer.prompt_id, answer.prompt) == (content_id(prompt.messages), prompt.messages[-1]["content"])
        assert (answer.answer, answer.finished) == (text, bool(ends))


def test_the_head_reads_no_views(
    model: Any, smollm2_tokenizer: Any, prompts: list[Prompt], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a batch of views a CPU makes one copy of the head's weights a row."""
    forward, read = model.lm_head.forward, []

    def watch(hidden: torch.Tensor) -> torch.Tensor:
        read.append(hidden.is_contiguous())
        return forward(hidden)

    monkeypatch.setattr(model.lm_head, "forward", watch)
    generate_answers(model, smollm2_tokenizer, prompts, max_new_tokens=2, batch_size=4)
    assert read
    assert all(read)


def test_each_token_is_read_once_in_batches_of_like_length(
    model: Any, smollm2_tokenizer: Any, prompts: list[Prompt], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even of a model that was saved with its cache switched off, as trainers leave it."""
    monkeypatch.setattr(model.generation_config, "use_cache", False)
    monkeypatch.setattr(model.config, "use_cache", False)
    read: list[int] = []
    hook = model.get_input_embeddings().register_forward_hook(
        lambda _module, ids, _output: read.append(ids[0].numel())
    )
    monkeypatch.setattr(generate, "stop_tokens", lambda *_: [0])  # which is never the likeliest here
    answers = generate_answers(model, smollm2_tokenizer, prompts, max_new_tokens=3, batch_size=4)
    hook.remove()
    assert not any(answer.finished for answer in answers)
    texts = [prompt_text(smollm2_tokenizer, prompt) for prompt in prompts]
    lengths = sorted((len(smollm2_tokenizer(text)["input_ids"]) for text in texts), reverse=True)
    batches = [lengths[start : start + 4] for start in range(0, len(lengths), 4)]
    assert read == [size for own in batches for size in (len(own) * own[0], len(own), len(own))]


def prompt_text(tokenizer: Any, prompt: Prompt) -> str:
    return str(tokenizer.apply_chat_template(prompt.messages, add_generation_prompt=True, tokenize=False))


def test_an_answer_ends_at_the_end_of_turn(
    model: Any, smollm2_tokenizer: Any, prompts: list[Prompt], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever token ends a turn: here each prompt's fourth one."""
    for prompt in prompts[:3]:
        fourth = one_by_one(model, smollm2_tokenizer, prompt, 4)[3]
        monkeypatch.setattr(generate, "stop_tokens", lambda *_, stop=fourth: [stop])
        first = one_by_one(model, smollm2_tokenizer, prompt, 4).index(fourth)
        answer = generate_answers(model, smollm2_tokenizer, [prompt], max_new_tokens=8)[0]
        assert answer.finished
        assert answer.answer == smollm2_tokenizer.decode(one_by_one(model, smollm2_tokenizer, prompt, first))


def test_the_templates_end_of_turn_stops_even_if_no_setting_names_it(model: Any, smollm2_tokenizer: Any) -> None:
    end_of_turn = smollm2_tokenizer.convert_tokens_to_ids("<|im_end|>")
    model.generation_config.eos_token_id = None
    before = smollm2_tokenizer.eos_token
    try:
        smollm2_tokenizer.eos_token = "<|endoftext|>"
        assert set(stop_tokens(model, smollm2_tokenizer)) == {end_of_turn, smollm2_tokenizer.eos_token_id}
    finally:
        smollm2_tokenizer.eos_token = before


def test_the_models_own_sampling_settings_change_nothing(
    model: Any, smollm2_tokenizer: Any, prompts: list[Prompt]
) -> None:
    plain = generate_answers(model, smollm2_tokenizer, prompts[:3], max_new_tokens=8)
    kept = model.generation_config.to_dict()
    try:
        model.generation_config.update(do_sample=True, temperature=5.0, repetition_penalty=3.0, top_k=3)
        assert generate_answers(model, smollm2_tokenizer, prompts[:3], max_new_tokens=8) == plain
    finally:
        model.generation_config = type(model.generation_config).from_dict(kept)


@pytest.mark.parametrize("temperature", [0.0, 0.8])
@pytest.mark.parametrize("lines", [0, 3, 4, 9, 11])
def test_a_killed_run_ends_with_the_same_answers(
    model: Any, smollm2_tokenizer: Any, prompts: list[Prompt], tmp_path: Path, lines: int, temperature: float
) -> None:
    settings: dict[str, Any] = {"max_new_tokens": 6, "batch_size": 4, "temperature": temperature}
    whole = generate_answers(model, smollm2_tokenizer, prompts, out=tmp_path / "whole.jsonl", **settings)
    data = (tmp_path / "whole.jsonl").read_bytes()
    cut = sum(len(line) for line in data.splitlines(keepends=True)[:lines])
    (tmp_path / "killed.jsonl").write_bytes(data[: cut + (7 if lines < 11 else 0)])
    resumed = generate_answers(model, smollm2_tokenizer, prompts, out=tmp_path / "killed.jsonl", **settings)
    assert resumed == whole
    assert (tmp_path / "killed.jsonl").read_bytes() == data
    by_id = {answer.prompt_id: answer for answer in read_answers(tmp_path / "killed.jsonl")}
    assert [by_id[prompt.prompt_id] for prompt in prompts] == whole
    assert set(json.loads(data.splitlines()[0])) == {"prompt_id", "prompt", "answer", "finished", "crc"}


def test_a_kept_answer_that_is_not_what_was_written_is_given_anew(
    model: Any, smollm2_tokenizer: Any, prompts: list[Prompt], tmp_path: Path
) -> None:
    settings: dict[str, Any] = {"max_new_tokens": 6, "batch_size": 4}
    whole = generate_answers(model, smollm2_tokenizer, prompts, out=tmp_path / "whole.jsonl", **settings)
    lines = (tmp_path / "whole.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    for damaged in (lines[5].replace('"answer": "', '"answer": "!'), "{", "[]\n", lines[5].replace('"crc"', '"cra"')):
        (tmp_path / "damaged.jsonl").write_text("".join([*lines[:5], damaged, *lines[6:]]), encoding="utf-8")
        assert (
            generate_answers(model, smollm2_tokenizer, prompts, out=tmp_path / "damaged.jsonl", **settings) == whole
        )
        assert (tmp_path / "damaged.jsonl").read_text(encoding="utf-8") == "".join(lines)


def test_answers_to_other_prompts_are_refused(
    model: Any, smollm2_tokenizer: Any, prompts: list[Prompt], tmp_path: Path
) -> None:
    generate_answers(model, smollm2_tokenizer, prompts[:2], out=tmp_path / "a.jsonl", max_new_tokens=2)
    with pytest.raises(InputError, match="other prompts"):
        generate_answers(model, smollm2_tokenizer, prompts[2:4], out=tmp_path / "a.jsonl", max_new_tokens=2)


def test_adapters_count_as_they_are_set(
    tiny_model_folder: Path, tiny_adapter_folder: Path, smollm2_tokenizer: Any, prompts: list[Prompt]
) -> None:
    base = lively(tiny_model_folder)
    plain = generate_answers(base, smollm2_tokenizer, prompts[:4], max_new_tokens=6)
    adapted = PeftModel.from_pretrained(base, tiny_adapter_folder)
    tuned = generate_answers(adapted, smollm2_tokenizer, prompts[:4], max_new_tokens=6)
    assert tuned != plain
    with adapted.disable_adapter():
        assert generate_answers(adapted, smollm2_tokenizer, prompts[:4], max_new_tokens=6) == plain


def test_prompts_out_of_many_kinds_of_records(tmp_path: Path) -> None:
    records = [
        {"prompt": "one", "label": "safe"},
        {"question": "two", "answer": "#### 2", "label": "safe"},
        {"goal": "three", "label": "unsafe"},
        {"instruction": "four", "input": "4", "output": "no", "label": "safe"},
        {"messages": [{"role": "user", "content": "five"}, {"role": "assistant", "content": "5"}], "label": "safe"},
        {"prompt": "one", "label": "safe"},
    ]
    path = tmp_path / "p.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    prompts = read_prompts(str(path))
    assert [prompt.text for prompt in prompts] == ["one", "two", "three", "four\n\n4", "five", "one"]
    assert prompts[0].prompt_id == content_id([{"role": "user", "content": "one"}])
    assert prompts[5].prompt_id == prompts[0].prompt_id + "-2"
    assert [p.text for p in read_prompts(str(path), where={"label": "safe"}, limit=2)] == ["one", "two"]
    with pytest.raises(InputError, match="no prompt there"):
        read_prompts(str(path), where={"label": "other"})
    with pytest.raises(InputError, match=r":1: field 'lable', by which prompts are taken, is missing"):
        read_prompts(str(path), where={"lable": "safe"})
    path.write_text('{"prompt": "fine"}\n{"prompt": "  "}\n')
    with pytest.raises(InputError, match=r"p\.jsonl:2: prompt is empty"):
        read_prompts(str(path))


def test_a_prompt_may_be_a_conversation_that_waits_for_its_answer(tmp_path: Path) -> None:
    turns = [{"role": "system", "content": ""}, {"role": "user", "content": "a"}]
    path = tmp_path / "p.jsonl"
    path.write_text(json.dumps({"messages": turns}) + "\n")
    assert [prompt.messages for prompt in read_prompts(str(path))] == [turns]


def test_a_system_text_beside_a_prompt_stands_first_and_other_parts_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    path.write_text(json.dumps({"prompt": "a", "system": "Be brief."}))
    (prompt,) = read_prompts(str(path))
    assert prompt.messages == [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "a"}]
    for name, value in (("history", [["b", "c"]]), ("input", "a long text"), ("image", "cat.png"), ("system", 3)):
        path.write_text(json.dumps({"prompt": "a"}) + "\n" + json.dumps({"prompt": "a", name: value}))
        with pytest.raises(InputError, match=rf"p\.jsonl:2: {name} "):
            read_prompts(str(path))


def test_what_follows_the_last_user_is_no_part_of_a_prompt() -> None:
    turns = [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b"},
        {"role": "user", "content": "c"},
        {"role": "assistant", "content": "d"},
    ]
    (prompt,) = prompts_from([turns])
    assert prompt.messages == turns[:3]
    with pytest.raises(InputError, match="no user"):
        prompts_from([turns[1:2]])


SEARCH = {"type": "function", "function": {"name": "search", "parameters": {"type": "object", "properties": {}}}}


def test_tools_of_a_prompt_go_through_the_template(smollm2_tokenizer: Any, tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    turns = [{"role": "user", "content": "a"}]
    records: list[dict[str, Any]] = [{"prompt": "a"}, {"messages": turns}]
    path.write_text("\n".join(json.dumps({**record, "tools": [SEARCH]}) for record in records))
    prompts = read_prompts(str(path))
    held_out = prompts_from([[*prompts[0].messages, {"role": "assistant", "content": "b"}]])
    tokenizer = copy.copy(smollm2_tokenizer)
    tokenizer.chat_template = trl_template("qwen2_5")
    expected = tokenizer.apply_chat_template(turns, tools=[SEARCH], add_generation_prompt=True, return_dict=False)
    for prompt in (*prompts, *held_out):
        assert generate._prompt_tokens(ChatTemplate(tokenizer), tokenizer, prompt) == expected
    with pytest.raises(InputError, match="the prompt 'a': the row offers tools, and the chat template has no place"):
        generate._prompt_tokens(ChatTemplate(smollm2_tokenizer), smollm2_tokenizer, prompts[0])
