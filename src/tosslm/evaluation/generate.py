"""A model's answers to prompts: batched by length, left-padded, greedy, kept batch by batch."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import GenerationConfig

from tosslm.data.fields import THINK_END, THINK_START
from tosslm.data.habits import turn_ends
from tosslm.data.template import ChatTemplate
from tosslm.data.tokenize import RowTokenizer
from tosslm.errors import InputError
from tosslm.evaluation.answers import Answer, without_special
from tosslm.evaluation.asking import asked_text
from tosslm.evaluation.decoding import generated_ids
from tosslm.evaluation.kept import append_answers, kept_answers
from tosslm.evaluation.prompts import Prompt
from tosslm.progress import Reporter, SilentReporter


def generate_answers(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[Prompt],
    *,
    out: Path | None = None,
    max_new_tokens: int = 128,
    batch_size: int = 16,
    temperature: float = 0.0,
    seed: int = 0,
    name: str = "answers",
    reporter: Reporter | None = None,
) -> list[Answer]:
    """Let a model answer prompts.

    Batches are fixed by the prompts alone, and an answer is kept with its whole batch: padding changes the last
    bits of a sum, so another batch could mean another word. A resumed call ends with the text of one that was not
    killed, on the same machine.

    Args:
        model: any transformers causal LM, with adapters as they are set.
        tokenizer: a fast tokenizer with a chat template.
        prompts: what to answer.
        out: JSONL file that is read first and grows batch by batch. It must be of this model and these settings;
            only the prompts are checked. None keeps nothing.
        max_new_tokens: an answer is cut off there.
        batch_size: prompts in one batch; the longest come first, so that a lack of memory shows at once.
        temperature: 0 is greedy.
        seed: of sampling.
        name: what progress calls this.
        reporter: where progress goes.

    Returns:
        One answer a prompt, in the order of ``prompts``.

    Raises:
        InputError: ``out`` holds answers to other prompts.
    """
    template = ChatTemplate(tokenizer)
    tokens = [_prompt_tokens(template, tokenizer, prompt) for prompt in prompts]
    order = sorted(range(len(prompts)), key=lambda i: (-len(tokens[i]), i))
    answers = kept_answers(out, [prompts[i] for i in order], batch_size) if out else []
    settings = _settings(model, tokenizer, max_new_tokens, temperature)
    # Where the template opens the reasoning, the model writes its end alone.
    opening = f"{THINK_START}\n" if template.generation_prompt.rstrip().endswith(THINK_START) else ""
    was_training = model.training
    model.eval()
    try:
        with (reporter or SilentReporter()).task(name, len(prompts)) as task:
            task.advance(len(answers), 0)
            for start in range(len(answers), len(order), batch_size):
                batch = order[start : start + batch_size]
                if temperature:
                    torch.manual_seed(seed + start)  # of this batch alone, so that resuming changes no sample
                replies = _answer_batch(model, [tokens[i] for i in batch], settings)
                part = [
                    _answer(prompts[i], reply, tokenizer, settings, opening)
                    for i, reply in zip(batch, replies, strict=True)
                ]
                if out:
                    append_answers(out, part)
                answers += part
                task.advance(len(batch), sum(len(tokens[i]) for i in batch) + replies.numel())
    finally:
        model.train(was_training)
    by_index = dict(zip(order, answers, strict=True))
    return [by_index[i] for i in range(len(prompts))]


def complete(
    model: Any, tokenizer: Any, texts: Sequence[str], *, max_new_tokens: int, batch_size: int, begins: bool = False
) -> list[str]:
    """Greedy continuations of texts that are rendered already, batched as answers are; in the order of ``texts``.

    Args:
        model: any transformers causal LM.
        tokenizer: its tokenizer.
        texts: rendered already.
        max_new_tokens: a continuation is cut off there.
        batch_size: texts in one batch.
        begins: whether the tokenizer's beginning of a text goes before each; a chat template writes its own.
    """
    tokens = [_tokens(tokenizer, text, begins) for text in texts]
    order = sorted(range(len(texts)), key=lambda i: (-len(tokens[i]), i))
    batches = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
    settings = _settings(model, tokenizer, max_new_tokens, 0.0)
    replies = greedy_ids(model, tokenizer, tokens, batches, max_new_tokens=max_new_tokens)
    return [_decoded(reply, tokenizer, settings)[0] for reply in replies]


def _tokens(tokenizer: Any, text: str, begins: bool) -> list[int]:
    found: list[int] = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    first = tokenizer.bos_token_id
    missing = begins and first is not None and found[:1] != [first] and tokenizer("")["input_ids"][:1] == [first]
    return [first, *found] if missing else found


def greedy_ids(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[Sequence[int]],
    batches: Iterable[Sequence[int]],
    *,
    max_new_tokens: int,
) -> list[list[int]]:
    """Greedy continuations of prompts that are tokens already, whatever the model's own settings of generation are.

    Args:
        model: any transformers causal LM, with adapters as they are set.
        tokenizer: its tokenizer.
        prompts: ``N`` token sequences.
        batches: the places of the prompts that are answered at once; every place in one of them.
        max_new_tokens: a continuation is cut off there.

    Returns:
        The new tokens of each, in the order of ``prompts``, up to the end of turn, which is among them.
    """
    settings = _settings(model, tokenizer, max_new_tokens, 0.0)
    replies: list[list[int]] = [[] for _ in prompts]
    for batch in batches:
        for i, reply in zip(batch, _answer_batch(model, [prompts[i] for i in batch], settings), strict=True):
            replies[i] = _up_to_stop(reply.tolist(), settings)
    return replies


def _up_to_stop(reply: list[int], settings: GenerationConfig) -> list[int]:
    ends = [i for i, token in enumerate(reply) if token in settings.eos_token_id]
    return reply[: ends[0] + 1] if ends else reply


def complete_with_logits(
    model: Any,
    tokenizer: Any,
    texts: Sequence[str],
    wanted: Sequence[int],
    *,
    max_new_tokens: int,
    batch_size: int,
    begins: bool = False,
) -> tuple[list[str], np.ndarray]:
    """As ``complete``, with the logits of some tokens where each continuation's first word begins.

    Args:
        model: any transformers causal LM.
        tokenizer: its tokenizer.
        texts: ``N`` texts that are rendered already.
        wanted: ids of ``W`` tokens.
        max_new_tokens: a continuation is cut off there.
        batch_size: texts in one batch.
        begins: as of ``complete``.

    Returns:
        The continuations, and float32 ``[N, W]``: the logits at the first token with a letter or digit in it, since
        guards are taught to write blank lines first; nan where there is no such token.
    """
    tokens = [_tokens(tokenizer, text, begins) for text in texts]
    order = sorted(range(len(texts)), key=lambda i: (-len(tokens[i]), i))
    settings = _settings(model, tokenizer, max_new_tokens, 0.0)
    settings.return_dict_in_generate = settings.output_logits = True
    replies = [""] * len(texts)
    found = np.full((len(texts), len(wanted)), np.nan, dtype=np.float32)
    for start in range(0, len(order), batch_size):
        batch = order[start : start + batch_size]
        output, logits = generated_ids(model, [tokens[i] for i in batch], settings)
        for place, i in enumerate(batch):
            replies[i] = _decoded(output[place].tolist(), tokenizer, settings)[0]
            first = _first_word(output[place], tokenizer, settings)
            if first is not None:
                found[i] = logits[first][place, list(wanted)].float().cpu().numpy()
    return replies, found


def _first_word(reply: torch.Tensor, tokenizer: Any, settings: GenerationConfig) -> int | None:
    """The place of the first token with a letter or digit in it, before the end of turn."""
    for place, token in enumerate(reply.tolist()):
        if token in settings.eos_token_id:
            return None
        if any(character.isalnum() for character in tokenizer.decode([token], skip_special_tokens=True)):
            return place
    return None


def stop_tokens(model: Any, tokenizer: Any) -> list[int]:
    """The tokens that end an answer: what model and tokenizer name, and what the chat template ends a turn with.

    A template's end of turn is not always the tokenizer's end of text, and a model trained on such turns may never
    write the latter.
    """
    configured = model.generation_config.eos_token_id
    stops = {*(configured if isinstance(configured, list) else [configured]), tokenizer.eos_token_id}
    with suppress(InputError):  # No template, or one of conversations of another shape: what is configured has to do.
        stops.update(turn_ends(RowTokenizer(tokenizer)))
    return sorted(stops - {None})


def _prompt_tokens(template: ChatTemplate, tokenizer: Any, prompt: Prompt) -> list[int]:
    return tokenizer(asked_text(template, prompt), add_special_tokens=False, verbose=False)["input_ids"]


def _settings(model: Any, tokenizer: Any, max_new_tokens: int, temperature: float) -> GenerationConfig:
    stops = stop_tokens(model, tokenizer)
    sampling = {"do_sample": True, "temperature": temperature, "top_p": 1.0, "top_k": 0} if temperature else {}
    # What is not named here is taken from the model's own settings: a repetition penalty of theirs, say, which would
    # change what is measured.
    return GenerationConfig(
        max_new_tokens=max_new_tokens,
        min_new_tokens=0,
        num_beams=1,
        repetition_penalty=1.0,
        no_repeat_ngram_size=0,
        use_cache=True,  # trainers save models with it switched off
        eos_token_id=stops,
        pad_token_id=tokenizer.pad_token_id if tokenizer.pad_token_id is not None else stops[0],
        **(sampling or {"do_sample": False}),
    )


def _answer_batch(model: Any, tokens: Sequence[Sequence[int]], settings: GenerationConfig) -> torch.Tensor:
    return generated_ids(model, tokens, settings)[0]


def _answer(prompt: Prompt, reply: torch.Tensor, tokenizer: Any, settings: GenerationConfig, opening: str) -> Answer:
    text, finished = _decoded(reply.tolist(), tokenizer, settings)
    return Answer(prompt.prompt_id, prompt.text, opening + text, finished)


def _decoded(reply: list[int], tokenizer: Any, settings: GenerationConfig) -> tuple[str, bool]:
    """The text up to the end of turn, and whether there was one."""
    cut = _up_to_stop(reply, settings)
    finished = bool(cut) and cut[-1] in settings.eos_token_id
    cut = cut[:-1] if finished else cut
    if {THINK_START, THINK_END} & set(tokenizer.all_special_tokens):
        return without_special(tokenizer, tokenizer.decode(cut, skip_special_tokens=False)), finished
    return tokenizer.decode(cut, skip_special_tokens=True), finished
