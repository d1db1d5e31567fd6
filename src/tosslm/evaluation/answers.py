"""What models said to prompts."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from tosslm.data.fields import THINK_END
from tosslm.data.fields import THINK_START as THINK_START


def spoken(text: str) -> str:
    """What a text says to whoever asked, without the reasoning before it; nothing where that has not come to its end.

    Examples:
        >>> spoken("<think>A recipe.</think> Take two eggs."), spoken("<think>They ask"), spoken("Eggs")
        ('Take two eggs.', '', 'Eggs')
    """
    _, ended, rest = text.rpartition(THINK_END)
    if ended:
        return rest.lstrip()
    return "" if text.lstrip().startswith(THINK_START) else text


def without_special(tokenizer: Any, text: str) -> str:
    """A decoded text without special tokens but the tags of reasoning, which say what is no answer yet."""
    for token in set(tokenizer.all_special_tokens) - {THINK_START, THINK_END}:
        text = text.replace(token, "")
    return text


@dataclass(frozen=True, slots=True)
class Answer:
    """What a model said to a prompt.

    Attributes:
        prompt_id: of the prompt.
        prompt: what the user said last.
        answer: the text, without special tokens; reasoning that the model wrote before it is a part.
        finished: whether the model ended its turn, rather than being cut off at the most tokens.
    """

    prompt_id: str
    prompt: str
    answer: str
    finished: bool

    @property
    def spoken(self) -> str:
        """What is judged: the answer without the reasoning before it."""
        return spoken(self.answer)


def read_answers(path: Path) -> list[Answer]:
    """The answers of a JSONL file, in its order; a last line that a kill cut off is left out."""
    lines = path.read_bytes().split(b"\n")[:-1]
    records = (json.loads(line) for line in lines)
    return [Answer(**{field.name: record[field.name] for field in fields(Answer)}) for record in records]
