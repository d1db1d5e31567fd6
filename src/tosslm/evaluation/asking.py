"""Prompts as a model is asked them: written by its chat template, and refused at the door where that cannot be."""

from __future__ import annotations

from tosslm.config import EvaluationConfig
from tosslm.data.records import MAX_ROW_BYTES
from tosslm.data.template import ChatTemplate
from tosslm.data.tokenize import RowTokenizer
from tosslm.data.unwritten import prompt_text
from tosslm.errors import RowError
from tosslm.evaluation.checks import ROW_KINDS, asked_prompts, own_rows
from tosslm.evaluation.prompts import Prompt


def asked_text(template: ChatTemplate, prompt: Prompt, key: str = "") -> str:
    """A prompt as text, generation prompt and all.

    Args:
        template: of the model that is asked.
        prompt: what it is asked.
        key: of the config that names the prompt, for the message of an error.

    Raises:
        RowError: the template refuses it, or leaves out its tools or its system message; names the prompt.
    """
    try:
        return prompt_text(template, prompt.messages)
    except RowError as error:
        named = f"{key}: " * bool(key) + f"the prompt {prompt.text[:60]!r}"
        raise RowError(f"{named}: {error.reason}", error.remedy) from error


def _check_room(text: str, prompt: Prompt, key: str, tokenizer: RowTokenizer, most: int) -> None:
    """Refuse a prompt that, with its answer, is longer than the model has positions for."""
    positions = tokenizer.limits.positions if tokenizer.limits else None
    if positions is None or len(text.encode()) + most <= positions:  # no token is shorter than a byte
        return
    length = len(tokenizer.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])
    if length + most > positions:
        raise RowError(
            f"{key}: the prompt {prompt.text[:60]!r} has {length} tokens, and with the {most} of evaluation."
            f"max_new_tokens more than the {positions} positions of the model",
            "leave it out (where, limit), or lower max_new_tokens",
        )


def check_asked(settings: EvaluationConfig, tokenizer: RowTokenizer, max_row_bytes: int = MAX_ROW_BYTES) -> None:
    """Refuse prompts and rows of an evaluation that the chat template does not take, before anything is trained.

    Args:
        settings: what is measured.
        tokenizer: of the rows.
        max_row_bytes: ``data.max_row_bytes``.

    Raises:
        InputError: names the key, and the prompt or the row.
    """
    template = ChatTemplate(tokenizer.tokenizer)
    for kind, prompts in asked_prompts(settings, max_row_bytes).items():
        for prompt in prompts:
            text = asked_text(template, prompt, f"evaluation.{kind}")
            _check_room(text, prompt, f"evaluation.{kind}", tokenizer, settings.max_new_tokens)
    for kind in ROW_KINDS:
        own_rows(settings, kind, tokenizer, max_row_bytes)
