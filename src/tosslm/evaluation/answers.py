"""What models said to prompts."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Answer:
    """What a model said to a prompt.

    Attributes:
        prompt_id: of the prompt.
        prompt: what the user said last.
        answer: the text, without special tokens.
        finished: whether the model ended its turn, rather than being cut off at the most tokens.
    """

    prompt_id: str
    prompt: str
    answer: str
    finished: bool


def read_answers(path: Path) -> list[Answer]:
    """The answers of a JSONL file, in its order; a last line that a kill cut off is left out."""
    lines = path.read_bytes().split(b"\n")[:-1]
    records = (json.loads(line) for line in lines)
    return [Answer(**{field.name: record[field.name] for field in fields(Answer)}) for record in records]
