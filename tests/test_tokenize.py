"""Tokenisation: the ids are the chat template's, the response is the answer, the spans give its text back.

The templates are those of real model families. Their tokenizers are small ones built here with the family's
special tokens, so that no download is needed; SmolLM2's is the real one.
"""

from __future__ import annotations

import copy
import functools
import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest
import trl
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import PreTrainedTokenizerFast

from tosslm.config import SourceConfig
from tosslm.data.rows import BadRow
from tosslm.data.sets import SetCounts, prepared_rows
from tosslm.data.tokenize import RowTokenizer, tokenize_rows
from tosslm.data.tokenized import TokenizedRow
from tosslm.errors import InputError, RowError

CORPUS = [
    "The weather in Paris is mild, and the river is calm this evening.",
    "Sure, here is a short answer: take two eggs and stir them slowly.",
    "system user assistant model Today Date: 26 Jul 2024\n\nYou are a helpful assistant.\n",
    "[INST] What should I cook for dinner? [/INST] <|user|>\n<|assistant|>\n",
]

MISTRAL_V01 = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
    "{% if message['role'] == 'user' %}{{ '[INST] ' + message['content'] + ' [/INST]' }}"
    "{% elif message['role'] == 'assistant' %}{{ message['content'] + eos_token + ' ' }}"
    "{% else %}{{ raise_exception('Only user and assistant roles are supported!') }}{% endif %}{% endfor %}"
)
MISTRAL_V02 = MISTRAL_V01.replace(
    "{{ message['content'] + eos_token + ' ' }}", "{{ ' ' + message['content'] + eos_token }}"
)
ZEPHYR = (
    "{% for message in messages %}\n"
    "{% if message['role'] == 'user' %}\n{{ '<|user|>\n' + message['content'] + eos_token }}\n"
    "{% elif message['role'] == 'system' %}\n{{ '<|system|>\n' + message['content'] + eos_token }}\n"
    "{% elif message['role'] == 'assistant' %}\n{{ '<|assistant|>\n'  + message['content'] + eos_token }}\n"
    "{% endif %}\n"
    "{% if loop.last and add_generation_prompt %}\n{{ '<|assistant|>' }}\n{% endif %}\n"
    "{% endfor %}"
)
UNSTABLE = (
    "{% for message in messages %}{{ message['role'] + ': ' + message['content'] }}"
    "{% if not loop.last %}{{ ' (turn ' + loop.revindex|string + ' from the end)' }}{% endif %}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)
EMPTY_THINKING = "<think>\n\n</think>\n\n"


def trl_template(name: str) -> str:
    return (Path(trl.__file__).parent / "chat_templates" / f"{name}.jinja").read_text(encoding="utf-8")


@dataclass(frozen=True)
class Family:
    """A model family: its template, and what an answer of it must look like, known from its documentation."""

    template: str
    special: tuple[str, ...]
    end_of_turn: str
    method: str
    bos: str | None = None
    system: bool = True
    thinking: str = ""
    metaspace: bool = False


CHATML = ("<|im_start|>", "<|im_end|>", "<|endoftext|>")
LLAMA3 = ("<|begin_of_text|>", "<|eot_id|>", "<|start_header_id|>", "<|end_header_id|>")
DEEPSEEK = tuple(f"<\uff5c{name}\uff5c>" for name in ("begin▁of▁sentence", "end▁of▁sentence", "User", "Assistant"))
FAMILIES = {
    "llama3": Family(trl_template("llama3"), LLAMA3, "<|eot_id|>", "TRL training template", LLAMA3[0]),
    "llama3.1": Family(trl_template("llama3_1"), LLAMA3, "<|eot_id|>", "prefix differences", LLAMA3[0]),
    "qwen2.5": Family(trl_template("qwen2_5"), CHATML, "<|im_end|>", "TRL training template"),
    "qwen3": Family(trl_template("qwen3"), CHATML, "<|im_end|>", "TRL training template", thinking=EMPTY_THINKING),
    "qwen3-own-markers": Family(
        trl_template("qwen3_training"), CHATML, "<|im_end|>", "generation markers", thinking=EMPTY_THINKING
    ),
    "gemma": Family(
        trl_template("gemma"),
        ("<bos>", "<start_of_turn>", "<end_of_turn>"),
        "<end_of_turn>",
        "TRL training template",
        "<bos>",
        system=False,
    ),
    "phi3": Family(
        trl_template("phi3"),
        ("<|user|>", "<|assistant|>", "<|system|>", "<|end|>", "<|endoftext|>"),
        "<|end|>",
        "TRL training template",
    ),
    "deepseek-r1": Family(
        trl_template("deepseek_r1_distill"), DEEPSEEK, DEEPSEEK[1], "TRL training template", DEEPSEEK[0]
    ),
    "mistral-v0.1": Family(
        MISTRAL_V01, ("<s>", "</s>"), "</s>", "prefix differences", "<s>", system=False, metaspace=True
    ),
    "mistral-v0.2": Family(
        MISTRAL_V02, ("<s>", "</s>"), "</s>", "prefix differences", "<s>", system=False, metaspace=True
    ),
    "zephyr": Family(ZEPHYR, ("<s>", "</s>"), "</s>", "prefix differences", "<s>", metaspace=True),
}


def byte_level_backend(special: tuple[str, ...], *, trim_offsets: bool) -> Tokenizer:
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.post_processor = processors.ByteLevel(trim_offsets=trim_offsets)
    trainer = trainers.BpeTrainer(
        vocab_size=500,
        special_tokens=list(special),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(CORPUS, trainer)
    return backend


def metaspace_backend(special: tuple[str, ...]) -> Tokenizer:
    """As Llama 2 and Mistral: a word bears its space as "▁", unknown characters fall back to bytes."""
    learner = Tokenizer(models.BPE())
    learner.pre_tokenizer = pre_tokenizers.Metaspace()
    learner.train_from_iterator(
        CORPUS, trainers.BpeTrainer(vocab_size=300, special_tokens=["<unk>", *special], show_progress=False)
    )
    learned = learner.to_str()
    vocab = dict(learner.get_vocab())
    for byte in range(256):
        vocab.setdefault(f"<0x{byte:02X}>", len(vocab))
    merges = [tuple(merge) for merge in json.loads(learned)["model"]["merges"]]
    backend = Tokenizer(models.BPE(vocab, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    backend.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    backend.add_special_tokens([AddedToken(token, normalized=False) for token in special])
    return backend


@functools.cache
def build(name: str, trim_offsets: bool = False) -> PreTrainedTokenizerFast:
    family = FAMILIES[name]
    if family.metaspace:
        backend = metaspace_backend(family.special)
    else:
        backend = byte_level_backend(family.special, trim_offsets=trim_offsets)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token=family.bos,
        eos_token=family.end_of_turn,
        additional_special_tokens=list(family.special),
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = family.template
    return tokenizer


def conversation(*contents: str, system: str | None = None) -> list[dict[str, str]]:
    messages = [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(contents)]
    return messages if system is None else [{"role": "system", "content": system}, *messages]


SEARCH = {"type": "function", "function": {"name": "search", "parameters": {"type": "object", "properties": {}}}}


def as_transformers(tokenizer: Any, row_tokenizer: RowTokenizer, messages: list[dict[str, Any]], **more: Any) -> Any:
    return tokenizer.apply_chat_template(
        messages, chat_template=row_tokenizer.chat_template, return_dict=False, **more
    )


@pytest.mark.parametrize("system", [None, "Be brief."])
@pytest.mark.parametrize("name", ["llama3.1", "qwen2.5", "qwen3", "qwen3-own-markers"])
def test_tools_go_through_the_template(name: str, system: str | None) -> None:
    tokenizer = build(name)
    tokenize = RowTokenizer(tokenizer)
    plain = conversation("Hi", "Hello!", "More?", "No.", system=system)
    row = tokenize([{**plain[0], "tools": [SEARCH]}, *plain[1:]])
    assert row.input_ids == as_transformers(tokenizer, tokenize, plain, tools=[SEARCH])
    assert '"search"' in tokenizer.decode(row.input_ids)
    assert decoded_turns(tokenizer, row) == decoded_turns(tokenizer, tokenize(plain))


@pytest.mark.parametrize("name", ["llama3", "gemma", "zephyr"])
def test_tools_that_the_template_does_not_write_are_refused(name: str) -> None:
    first, *others = conversation("Hi", "Hello!")
    with pytest.raises(RowError, match="offers tools, and the chat template has no place for them"):
        RowTokenizer(build(name))([{**first, "tools": [SEARCH]}, *others])


@pytest.mark.parametrize("name", ["qwen3", "qwen3-own-markers"])
def test_reasoning_goes_through_the_template_and_is_trained(name: str) -> None:
    tokenizer = build(name)
    tokenize = RowTokenizer(tokenizer)
    messages = conversation("Hi", "Hello!", "More?", "No.")
    messages[1]["reasoning_content"] = "They greet me."
    messages[3]["reasoning_content"] = "I have no more."
    row = tokenize(messages)
    assert row.input_ids == as_transformers(tokenizer, tokenize, messages)
    assert decoded_turns(tokenizer, row) == [
        "<think>\nThey greet me.\n</think>\n\nHello!<|im_end|>",
        "<think>\nI have no more.\n</think>\n\nNo.<|im_end|>",
    ]
    assert covered_text(row, messages, 1) == "Hello!"
    assert covered_text(row, messages, 3) == "No."
    assert not row.lost


@pytest.mark.parametrize("field", ["reasoning_content", "thinking"])
def test_reasoning_that_the_template_does_not_write_is_refused(smollm2_tokenizer: Any, field: str) -> None:
    messages = conversation("Hi", "Hello!", "More?", "No.")
    messages[3][field] = "I have no more."
    with pytest.raises(RowError, match=rf"message 3 has {field}, and the chat template does not write it"):
        RowTokenizer(smollm2_tokenizer)(messages)


def test_reasoning_left_out_of_an_earlier_answer_is_counted_as_lost() -> None:
    tokenizer = copy.copy(build("zephyr"))
    tokenizer.chat_template = (
        "{% for message in messages %}{% if message.role == 'user' %}{{ 'Q:' + message.content + '\n' }}{% else %}"
        "{{ 'A:' }}{% generation %}{% if loop.last %}{{ message.reasoning + '~' }}{% endif %}{{ message.content }}"
        "{{ '</s>' }}{% endgeneration %}{% endif %}{% endfor %}{% if add_generation_prompt %}{{ 'A:' }}{% endif %}"
    )
    messages = conversation("Hi", "Hello!", "More?", "No.")
    messages[1]["reasoning"], messages[3]["reasoning"] = "They greet me.", "I have no more."
    row = RowTokenizer(tokenizer)(messages)
    assert row.lost == [[1, 0, 0]]
    assert decoded_turns(tokenizer, row) == ["Hello!</s>", "I have no more.~No.</s>"]
    row.check_marked([[1, 0, 6]])  # which is the answer's own text


def decoded_turns(tokenizer: Any, row: TokenizedRow) -> list[str]:
    """The text of each contiguous run of response tokens."""
    runs: list[list[int]] = []
    previous = False
    for token_id, is_response in zip(row.input_ids, row.response_mask, strict=True):
        if is_response:
            if not previous:
                runs.append([])
            runs[-1].append(token_id)
        previous = is_response
    return [tokenizer.decode(run, skip_special_tokens=False) for run in runs]


def covered_text(row: TokenizedRow, messages: Sequence[Mapping[str, str]], index: int) -> str:
    """The pieces of one message in token order, each character once."""
    text = ""
    end: int | None = None
    for message, low, high in row.offsets:
        if message == index:
            assert 0 <= low < high <= len(messages[index]["content"])
            if end is not None:
                assert low <= end, "a gap between two pieces"
            text += messages[index]["content"][low if end is None else max(low, end) : high]
            end = high
    return text


def check(
    tokenizer: Any,
    messages: Sequence[Mapping[str, str]],
    *,
    end_of_turn: str,
    thinking: str = "",
    strip: bool = True,
    decode: bool = True,
) -> TokenizedRow:
    """Ids as the chat template's, responses exactly the answers, spans that give each answer back."""
    tokenize = RowTokenizer(tokenizer)
    row = tokenize(messages)
    expected = tokenizer.apply_chat_template(
        messages, tokenize=True, return_dict=False, chat_template=tokenize.chat_template
    )
    assert row.input_ids == expected
    assert len(row.response_mask) == len(row.input_ids)
    assert len(row.offsets) == sum(row.response_mask)
    assert not row.response_mask[0]
    answers = [(i, m["content"]) for i, m in enumerate(messages) if m["role"] == "assistant"]
    if decode:
        turns = [turn.removeprefix(" ") for turn in decoded_turns(tokenizer, row)]
        assert turns == [thinking + text.strip() + end_of_turn for _, text in answers]
    for index, text in answers:
        assert covered_text(row, messages, index).strip() == text.strip()
        if not strip:
            assert covered_text(row, messages, index) == text
    return row


ANSWERS = ("Hello! How are you?", "Take two eggs,\n\nand stir.\nThen wait")


@pytest.mark.parametrize("trim_offsets", [False, True])
@pytest.mark.parametrize("name", FAMILIES)
def test_ids_responses_and_spans_of_each_family(name: str, trim_offsets: bool) -> None:
    family, tokenizer = FAMILIES[name], build(name, trim_offsets)
    assert RowTokenizer(tokenizer).method == family.method
    expected: dict[str, Any] = {"end_of_turn": family.end_of_turn, "thinking": family.thinking}
    check(tokenizer, conversation("Hi", ANSWERS[0]), **expected)
    check(tokenizer, conversation("Hi", ANSWERS[0], "What to cook?", ANSWERS[1], "Thanks", "ok"), **expected)
    if family.system:
        check(tokenizer, conversation("Hi", ANSWERS[1], "More", "No.", system="Be brief."), **expected)
    else:
        with pytest.raises(RowError, match="chat template refuses"):
            RowTokenizer(tokenizer)(conversation("Hi", "Hello", system="Be brief."))


def test_smollm2(smollm2_tokenizer: Any) -> None:
    assert RowTokenizer(smollm2_tokenizer).method == "prefix differences"
    for system in (None, "Be brief."):
        messages = conversation("Hi", ANSWERS[0], "What to cook?", ANSWERS[1], system=system)
        check(smollm2_tokenizer, messages, end_of_turn="<|im_end|>", strip=False)


def test_offsets_are_those_of_the_documented_example(smollm2_tokenizer: Any) -> None:
    row = RowTokenizer(smollm2_tokenizer)(conversation("Hi", "Hello!"))
    assert row.offsets == [[1, 0, 5], [1, 5, 6], [-1, -1, -1]]
    assert row.response_mask[-4:] == [True, True, True, False]


ODD_TEXTS = {
    "emoji": "Fine 👩‍👩‍👧‍👦 and 🇫🇷👍🏽!",
    "cjk": "今天天气很好。日本語も、한국어도",
    "combining": "e\u0301a\u0308o\u0302 Z\u0351\u036b\u0343",
    "zero width": "a\u200bb\u200dc\ufeffd\u2060",
    "right to left": "שלום עולם، مرحبا \u202eabc\u202c",
    "control characters": "a\x00b\x07c\x1bd",
    "many spaces": "a   b \t\t c\n\n\n  d",
    "long word": "pneumono" * 20,
    "one character": "a",
    "code": "def f(x):\n    return {'a': [x, 1]}  # <b>\n",
}


@pytest.mark.parametrize("text", ODD_TEXTS.values(), ids=ODD_TEXTS)
@pytest.mark.parametrize("name", FAMILIES)
def test_unicode_and_whitespace(name: str, text: str) -> None:
    family = FAMILIES[name]
    # Metaspace tokenizers decode "▁" to a space that may not have been there, so only spans are compared.
    check(
        build(name),
        conversation(text, text, "and", text.strip()),
        end_of_turn=family.end_of_turn,
        thinking=family.thinking,
        decode=not family.metaspace and text == text.strip(),
    )


@pytest.mark.parametrize("text", ODD_TEXTS.values(), ids=ODD_TEXTS)
@pytest.mark.parametrize("around", ["{}", "  {}", "\n\n {}\n", "{}  "])
def test_smollm2_does_not_strip_so_spans_cover_all(smollm2_tokenizer: Any, text: str, around: str) -> None:
    content = around.format(text)
    decode = content == content.strip()
    check(smollm2_tokenizer, conversation("Hi", content), end_of_turn="<|im_end|>", strip=False, decode=decode)


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("trim_offsets", [False, True])
@pytest.mark.parametrize("around", ["  {}", "\n\n {}\n", "{}  ", "\t{} \n"])
def test_whitespace_around_the_answer(name: str, trim_offsets: bool, around: str) -> None:
    content = around.format("The river is calm")
    row = check(build(name, trim_offsets), conversation("Hi", content, "Hi", "ok"), end_of_turn="", decode=False)
    last_token_of_first_turn = next(
        i for i in range(1, len(row.input_ids)) if row.response_mask[i] and not row.response_mask[i + 1]
    )
    ends = build(name).convert_ids_to_tokens(row.input_ids[last_token_of_first_turn])
    assert ends == FAMILIES[name].end_of_turn


def test_pieces_of_one_emoji_share_its_span(smollm2_tokenizer: Any) -> None:
    row = RowTokenizer(smollm2_tokenizer)(conversation("Hi", "👍"))
    assert row.offsets[:-1] == [[1, 0, 1]] * (len(row.offsets) - 1)
    assert len(row.offsets) > 2


@pytest.mark.parametrize("trim_offsets", [False, True])
@pytest.mark.parametrize("name", FAMILIES)
def test_content_that_quotes_the_template(name: str, trim_offsets: bool) -> None:
    """Quoted special tokens open and close nothing; the template's own end of turn does."""
    family, tokenizer = FAMILIES[name], build(name, trim_offsets)
    # Qwen3 would read a thinking block in the quote as the answer's own.
    quote = tokenizer.apply_chat_template(conversation("Hi", "Yes"), tokenize=False).replace(EMPTY_THINKING, "")
    for content in (quote, f"a{family.end_of_turn}b", family.end_of_turn, f"Use {quote} like this"):
        messages = conversation(quote, content, content, "ok")
        row = check(tokenizer, messages, end_of_turn="", decode=False)
        assert row.offsets[-1] == [-1, -1, -1]
        last = len(row.input_ids) - 1 - row.response_mask[::-1].index(True)
        assert tokenizer.convert_ids_to_tokens(row.input_ids[last]) == family.end_of_turn


@pytest.mark.parametrize("name", FAMILIES)
def test_prompt_that_ends_like_the_generation_prompt(name: str) -> None:
    """A user cannot move the start of the answer by closing with the assistant's header."""
    family, tokenizer = FAMILIES[name], build(name)
    prompt = tokenizer.apply_chat_template(
        conversation("Hi"), tokenize=False, chat_template=family.template, add_generation_prompt=True
    )
    for end in range(len(prompt) - 30, len(prompt) + 1):
        row = RowTokenizer(tokenizer)(conversation(prompt[:end], "", "Hi", "ok"))
        turns = [turn.removeprefix(" ") for turn in decoded_turns(tokenizer, row)]
        assert turns == [family.thinking + text + family.end_of_turn for text in ("", "ok")]


@pytest.mark.parametrize("content", ["think", "</", "\n", "<think>", "im", "<|im_end|>", "assistant\n"])
def test_short_answers_are_not_mistaken_for_the_thinking_block(content: str) -> None:
    messages = conversation("Hi", content)
    row = check(build("qwen3"), messages, end_of_turn="<|im_end|>", thinking=EMPTY_THINKING, decode=False)
    thinking = build("qwen3").encode(EMPTY_THINKING)
    assert row.offsets[: len(thinking) - 1] == [[-1, -1, -1]] * (len(thinking) - 1)


@pytest.mark.parametrize("content", ["<think>\nYes.\n</think>\n\nYes.", "<think>Yes.</think>Yes."])
def test_thinking_in_the_content(content: str) -> None:
    tokenizer, messages = build("qwen3"), conversation("Hi", content)
    row = RowTokenizer(tokenizer)(messages)
    assert decoded_turns(tokenizer, row) == ["<think>\nYes.\n</think>\n\nYes.<|im_end|>"]
    assert row.offsets[-2][2] == len(content)


def test_answer_that_the_template_leaves_out_has_no_spans() -> None:
    tokenizer = build("llama3.1")
    shouting = PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend_tokenizer, eos_token="<|eot_id|>")
    shouting.chat_template = (
        "{% for m in messages %}{{ m['role'] }}:"
        "{% if m['role'] == 'assistant' %}{% generation %}{{ m['content'] | upper + eos_token }}\n"
        "{% endgeneration %}{% else %}{{ m['content'] }}\n{% endif %}{% endfor %}"
    )
    row = RowTokenizer(shouting)(conversation("Hi", "quiet"))
    assert decoded_turns(shouting, row) == ["QUIET<|eot_id|>"]
    assert set(map(tuple, row.offsets)) == {(-1, -1, -1)}


def test_template_without_an_end_of_turn_ends_with_the_content() -> None:
    plain = PreTrainedTokenizerFast(tokenizer_object=build("llama3.1").backend_tokenizer)
    plain.chat_template = (
        "{% for m in messages %}{{ '### ' + m['role'] + ':\n' + m['content'] + '\n\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '### assistant:\n' }}{% endif %}"
    )
    row = RowTokenizer(plain)(conversation("Hi", "The river", "Hi", "is calm"))
    assert decoded_turns(plain, row) == ["The river", "is calm"]


@pytest.mark.parametrize("name", ["llama3", "qwen2.5", "llama3.1", "zephyr"])
def test_conversation_that_opens_with_the_assistant(name: str) -> None:
    messages = [{"role": "assistant", "content": "Welcome!"}, *conversation("Hi", "Hello")]
    check(build(name), messages, end_of_turn=FAMILIES[name].end_of_turn)


def test_smollm2_conversation_that_opens_with_the_assistant(smollm2_tokenizer: Any) -> None:
    messages = [{"role": "assistant", "content": "Welcome!"}, *conversation("Hi", "Hello")]
    check(smollm2_tokenizer, messages, end_of_turn="<|im_end|>")


@pytest.mark.parametrize("name", FAMILIES)
def test_last_turn_only(name: str) -> None:
    family, tokenizer = FAMILIES[name], build(name)
    messages = conversation("Hi", "Hello", "More", "The end.")
    every, last = RowTokenizer(tokenizer)(messages), RowTokenizer(tokenizer, turns="last")(messages)
    assert last.input_ids == every.input_ids
    text = decoded_turns(tokenizer, last)
    assert [t.removeprefix(" ") for t in text] == [family.thinking + "The end." + family.end_of_turn]
    assert last.offsets == every.offsets[-len(last.offsets) :]


@pytest.mark.parametrize("turns", ["all", "last"])
def test_truncation_keeps_a_prefix_of_everything(smollm2_tokenizer: Any, turns: Literal["all", "last"]) -> None:
    messages = conversation("Hi", "Hello there", "More", "The river is calm.")
    whole = RowTokenizer(smollm2_tokenizer, turns=turns)(messages)
    assert not whole.truncated
    for length in range(2, len(whole.input_ids) + 1):
        tokenize = RowTokenizer(smollm2_tokenizer, max_length=length, turns=turns)
        responses = sum(whole.response_mask[:length])
        if responses == 0:
            with pytest.raises(RowError, match=f"no response token is left after truncation to {length} tokens"):
                tokenize(messages)
            continue
        row = tokenize(messages)
        assert row.input_ids == whole.input_ids[:length]
        assert row.response_mask == whole.response_mask[:length]
        assert row.offsets == whole.offsets[:responses]
        assert row.truncated == (length < len(whole.input_ids))


def test_first_token_is_never_a_response_token() -> None:
    bare = PreTrainedTokenizerFast(tokenizer_object=build("llama3.1").backend_tokenizer)
    bare.chat_template = "{% for m in messages %}{% generation %}{{ m['content'] }}{% endgeneration %}{% endfor %}"
    row = RowTokenizer(bare)([{"role": "assistant", "content": "The river"}])
    assert row.response_mask == [False] + [True] * (len(row.input_ids) - 1)


def test_a_token_of_two_answers_is_the_firsts(smollm2_tokenizer: Any) -> None:
    tokenizer = copy.deepcopy(smollm2_tokenizer)
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    said = [("user", "Say:"), ("assistant", "hel"), ("assistant", "lo")]
    row = RowTokenizer(tokenizer)([{"role": role, "content": text} for role, text in said])
    assert tokenizer.convert_ids_to_tokens(row.input_ids)[-1] == "hello"
    assert row.response_mask == [False] * (len(row.input_ids) - 1) + [True]
    assert row.offsets == [[1, 0, 3]]


def test_unstable_template_without_markers_is_refused() -> None:
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=build("llama3").backend_tokenizer)
    tokenizer.chat_template = UNSTABLE
    with pytest.raises(RowError, match="prefix-stable") as caught:
        RowTokenizer(tokenizer)(conversation("Hi", "Hello", "More", "Bye"))
    assert "{% generation %}" in caught.value.remedy


def test_markers_that_do_not_match_the_turns_are_refused() -> None:
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=build("llama3").backend_tokenizer)
    tokenizer.chat_template = (
        "{% for m in messages %}{% if loop.last %}{% generation %}{{ m['content'] }}{% endgeneration %}"
        "{% else %}{{ m['content'] }}{% endif %}{% endfor %}"
    )
    with pytest.raises(RowError, match="marks 1 generated ranges for 2 assistant turns"):
        RowTokenizer(tokenizer)(conversation("Hi", "Hello", "More", "Bye"))


def test_named_templates_use_the_default_one() -> None:
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=build("llama3").backend_tokenizer,
        bos_token="<|begin_of_text|>",
        eos_token="<|eot_id|>",
    )
    tokenizer.chat_template = {"default": trl_template("llama3_1"), "tool_use": "{{ 1 }}"}
    check(tokenizer, conversation("Hi", "Hello"), end_of_turn="<|eot_id|>")
    tokenizer.chat_template = {"tool_use": "{{ 1 }}"}
    with pytest.raises(InputError, match="no chat template named default"):
        RowTokenizer(tokenizer)


def test_template_that_leaves_out_text_is_refused() -> None:
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=build("llama3").backend_tokenizer)
    tokenizer.chat_template = trl_template("smolvlm")
    with pytest.raises(InputError, match="leaves out an assistant message"):
        RowTokenizer(tokenizer)


def test_tokenizers_that_cannot_be_used_are_refused() -> None:
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=build("llama3").backend_tokenizer)
    with pytest.raises(InputError, match=r"no chat template; .*instruct"):
        RowTokenizer(tokenizer)
    tokenizer.chat_template = "{% for m in messages %}"
    with pytest.raises(InputError, match="not valid Jinja"):
        RowTokenizer(tokenizer)

    class Slow:
        is_fast = False
        chat_template = ZEPHYR

    with pytest.raises(InputError, match=r"Slow is a slow tokenizer.*load a fast one"):
        RowTokenizer(Slow())


@pytest.mark.parametrize("options", [{"max_length": 1}, {"turns": "first"}])
def test_options_out_of_range_are_refused(smollm2_tokenizer: Any, options: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=r"set data\."):
        RowTokenizer(smollm2_tokenizer, **options)


@pytest.mark.parametrize(
    ("messages", "reason"),
    [
        ([], "no assistant turn"),
        ([{"role": "user", "content": "Hi"}], "no assistant turn"),
        ([{"role": "user", "content": "Hi"}, {"role": "assistant", "content": None}], "message 1"),
        ([{"role": "user"}, {"role": "assistant", "content": "Hi"}], "message 0"),
        ([{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "a\ud800"}], "surrogate"),
    ],
)
def test_bad_rows_are_refused(smollm2_tokenizer: Any, messages: list[dict[str, Any]], reason: str) -> None:
    with pytest.raises(RowError, match=reason):
        RowTokenizer(smollm2_tokenizer)(messages)


def test_roles_that_do_not_alternate_give_the_templates_own_message() -> None:
    with pytest.raises(RowError, match="roles must alternate"):
        RowTokenizer(build("gemma"))([*conversation("Hi", "Hello"), {"role": "assistant", "content": "Again"}])


def test_keys_other_than_role_and_content_are_left_out() -> None:
    messages = conversation("Hi", "Hello")
    extra = [{**message, "name": "hm", "tool_calls": None} for message in messages]
    tokenize = RowTokenizer(build("qwen3"))
    assert tokenize(extra) == tokenize(messages)


def test_tokenize_rows_gives_a_typed_dataset_in_order(smollm2_tokenizer: Any) -> None:
    conversations = [conversation("Hi", f"Number {i}") for i in range(1005)]  # more than one chunk
    dataset = tokenize_rows(({"messages": m} for m in conversations), smollm2_tokenizer)
    assert dataset.column_names == ["input_ids", "response_mask", "offsets"]
    assert str(dataset.features.arrow_schema.field("input_ids").type) == "list<item: int32>"
    assert str(dataset.features.arrow_schema.field("response_mask").type) == "list<item: bool>"
    assert str(dataset.features.arrow_schema.field("offsets").type) == "list<item: list<item: int32>>"
    assert len(dataset) == 1005
    row = RowTokenizer(smollm2_tokenizer)(conversations[1003])
    assert dataset[1003] == {
        "input_ids": row.input_ids,
        "response_mask": row.response_mask,
        "offsets": row.offsets,
    }
    assert len(tokenize_rows([], smollm2_tokenizer)) == 0


def test_tokenize_rows_says_which_row_is_bad(smollm2_tokenizer: Any) -> None:
    rows = [{"messages": conversation("Hi", "Hello")}, {"messages": conversation("Hi")}]
    with pytest.raises(RowError, match="row 1: the last turn is of 'user'; end the row with"):
        tokenize_rows(rows, smollm2_tokenizer)


TEXTS = st.text(
    st.one_of(st.characters(exclude_categories=["Cs"]), st.sampled_from(" \n\t👍é한\u200d\u0301<|im_end|>")),
    max_size=40,
)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    contents=st.lists(TEXTS, min_size=2, max_size=6).filter(lambda texts: len(texts) % 2 == 0),
    name=st.sampled_from(["llama3", "llama3.1", "qwen2.5", "qwen3", "zephyr"]),
    trim_offsets=st.booleans(),
)
def test_spans_are_ordered_and_cover_the_content(contents: list[str], name: str, trim_offsets: bool) -> None:
    messages = conversation(*contents)
    row = RowTokenizer(build(name, trim_offsets), max_length=100_000)(messages)
    assert len(row.offsets) == sum(row.response_mask)
    for index in range(1, len(contents), 2):
        spans = [(low, high) for message, low, high in row.offsets if message == index]
        assert all(a <= c and b <= d for (a, b), (c, d) in itertools.pairwise(spans))
        assert all(0 <= low < high <= len(contents[index]) for low, high in spans)
        covered = {i for low, high in spans for i in range(low, high)}
        text = contents[index]
        leading = len(text) - len(text.lstrip())
        assert covered >= set(range(leading, leading + len(text.strip())))


def test_tokenize_rows_reads_other_row_formats(smollm2_tokenizer: Any) -> None:
    formats: list[dict[str, Any]] = [
        {"prompt": "Hi", "completion": "Hello"},
        {"messages": conversation("Hi", "Hello")},
    ]
    first, second = tokenize_rows(formats, smollm2_tokenizer)
    assert first == second


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("text", "row 1: the row is text, not an object"),
        ({"messages": [{"role": "narrator", "content": "Hi"}]}, "unknown role 'narrator'"),
        ({"messages": conversation("Hi", "a\ud800")}, "lone surrogate"),
        ({"messages": conversation("Hi", " ")}, "is empty"),
        ({"messages": conversation("Hi", "Hello")[1:]}, "'assistant' where 'user' is due"),
        ({"messages": conversation("Hi", "Hello"), "tools": [{"name": "search"}]}, "tools"),
        ({"messages": conversation("Hi", "Hello"), "unsafe_spans": [[0, 9]]}, "0 to 9 in a text of 5"),
        ({"prompt": "Hi", "completion": "Hello", "messages": conversation("Hi", "Hello")}, "several formats"),
    ],
)
def test_tokenize_rows_refuses_what_the_commands_refuse(smollm2_tokenizer: Any, row: Any, reason: str) -> None:
    with pytest.raises(RowError, match=reason):
        tokenize_rows([{"messages": conversation("Hi", "Hello")}, row], smollm2_tokenizer)


def test_tokenize_rows_takes_a_format_and_a_field(smollm2_tokenizer: Any) -> None:
    both = {"prompt": "Hi", "completion": "Hello", "messages": conversation("Hi", "Bye")}
    hh = {"said": "\n\nHuman: Hi\n\nAssistant: Hello"}
    (first,) = tokenize_rows([both], smollm2_tokenizer, format="prompt_completion")
    (second,) = tokenize_rows([hh], smollm2_tokenizer, field="said")
    assert first == second
    with pytest.raises(InputError, match="unknown row format"):
        tokenize_rows([], smollm2_tokenizer, format="chat")


def test_tokenize_rows_leaves_answers_of_the_prompt_as_context(smollm2_tokenizer: Any) -> None:
    messages = conversation("Hi", "Hello", "More?", "No.")
    (row,) = tokenize_rows([{"prompt": messages[:3], "completion": messages[3:]}], smollm2_tokenizer)
    assert decoded_turns(smollm2_tokenizer, TokenizedRow(**row, truncated=False)) == ["No.<|im_end|>"]
    (weighed,) = tokenize_rows(
        [{"messages": [messages[0], {**messages[1], "weight": 0}, *messages[2:]]}], smollm2_tokenizer
    )
    assert weighed == row


THOUGHT = "<think>\nThey greet me.\n</think>\n\nHello"


def dropping(where: str) -> PreTrainedTokenizerFast:
    """A tokenizer whose template writes an answer from the end of its thinking on, as DeepSeek-R1's does."""
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=build("qwen2.5").backend_tokenizer, eos_token="<|im_end|>")
    tokenizer.chat_template = (
        "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' }}{% if m['role'] == 'assistant' %}"
        "{% generation %}{% if WHERE %}{{ m['content'].split('</think>')[-1].lstrip('\\n') }}"
        "{% else %}{{ m['content'] }}{% endif %}{{ '<|im_end|>' }}{% endgeneration %}{{ '\\n' }}"
        "{% else %}{{ m['content'] + '<|im_end|>\\n' }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
    ).replace("WHERE", where)
    return tokenizer


@pytest.mark.parametrize(
    ("where", "contents", "lost"),
    [
        ("true", ("Hi", THOUGHT), [[1, 0, len(THOUGHT) - 5]]),
        ("not loop.last", ("Hi", THOUGHT), []),
        ("not loop.last", ("Hi", THOUGHT, "More?", THOUGHT), [[1, 0, len(THOUGHT) - 5]]),
        ("true", ("Hi", "Hello", "More?", THOUGHT), [[3, 0, len(THOUGHT) - 5]]),
        ("false", ("Hi", THOUGHT, "More?", THOUGHT), []),
    ],
)
def test_text_that_the_template_drops_is_named(where: str, contents: tuple[str, ...], lost: list[list[int]]) -> None:
    tokenizer = dropping(where)
    row = RowTokenizer(tokenizer)(conversation(*contents))
    assert row.lost == lost
    assert tokenizer.decode(row.input_ids).count("They greet me.") == "".join(contents).count("greet") - len(lost)
    for index, _, end in lost:
        row.check_marked([[index, end, end + 5]])
        with pytest.raises(RowError, match=f"mark 8 to 12 of message {index}, where the chat template drops"):
            row.check_marked([[index, 8, 12]])


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("around", ["{}", "  {}", "\n\n {}\n", "{}  "])
def test_white_space_that_a_template_strips_is_no_loss(name: str, around: str) -> None:
    row = RowTokenizer(build(name))(conversation("Hi", around.format("Hello! How are you?"), "More?", "No."))
    assert row.lost == []


def test_what_is_lost_of_an_answer_that_is_context_is_nobodys_loss() -> None:
    row = RowTokenizer(dropping("true"))(conversation("Hi", THOUGHT, "More?", "No."), context={1})
    assert row.lost == []


def test_an_answer_that_the_template_changes_throughout_is_lost_as_a_whole() -> None:
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=build("llama3.1").backend_tokenizer, eos_token="<|eot_id|>")
    tokenizer.chat_template = (
        "{% for m in messages %}{{ m['role'] }}:"
        "{{ m['content'] | upper if m['role'] == 'assistant' else m['content'] }}"
        "{{ eos_token }}\n{% endfor %}{% if add_generation_prompt %}assistant:{% endif %}"
    )
    assert RowTokenizer(tokenizer)(conversation("Hi", " quiet")).lost == [[1, 1, 6]]


def test_rows_that_the_template_rewrites_are_counted_and_marks_on_lost_text_refused(tmp_path: Path) -> None:
    path = tmp_path / "some.jsonl"
    records: list[dict[str, Any]] = [
        {"messages": conversation("Hi", "Hello")},
        {"messages": conversation("Hi", THOUGHT)},
        {"messages": conversation("Hi", THOUGHT), "unsafe_spans": [[len(THOUGHT) - 5, len(THOUGHT)]]},
        {"messages": conversation("Hi", THOUGHT), "unsafe_spans": [[8, 20]]},
    ]
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    counts = SetCounts()
    *good, bad = prepared_rows(SourceConfig(path=str(path)), RowTokenizer(dropping("true")), counts)
    assert [isinstance(row, dict) for row in good] == [True] * 3
    assert isinstance(bad, BadRow)
    assert "where the chat template drops" in bad.reason
    assert (counts.rewritten, counts.first_rewritten, counts.bad) == (2, f"{path}:2", 1)
