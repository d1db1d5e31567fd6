"""Answers in a file that grows batch by batch, so that a killed evaluation goes on."""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Sequence
from dataclasses import asdict
from itertools import takewhile
from pathlib import Path

from tosslm.errors import InputError
from tosslm.evaluation.answers import Answer
from tosslm.evaluation.prompts import Prompt


def append_answers(path: Path, part: Sequence[Answer]) -> None:
    """Append a batch of answers, each with a checksum of its own."""
    lines = "".join(f"{json.dumps(asdict(answer) | {'crc': _crc(answer)}, ensure_ascii=False)}\n" for answer in part)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as file:
        file.write(lines.encode())
        file.flush()
        os.fsync(file.fileno())


def _crc(answer: Answer) -> int:
    return zlib.crc32(json.dumps(asdict(answer), ensure_ascii=False).encode())


def _answer_of(line: bytes) -> Answer | None:
    """The answer of a kept line; None where it is not what was written."""
    try:
        fields = json.loads(line)
        crc = fields.pop("crc")
        answer = Answer(**fields)
    except (ValueError, TypeError, KeyError, AttributeError):
        return None
    return answer if _crc(answer) == crc else None


def kept_answers(path: Path, prompts: Sequence[Prompt], batch_size: int) -> list[Answer]:
    """The answers of whole batches that are as they were written; what follows them in the file is cut off."""
    if not path.exists():
        return []
    lines = path.read_bytes().split(b"\n")[:-1]
    read = list(takewhile(lambda answer: answer is not None, map(_answer_of, lines)))
    whole = len(read) if len(read) == len(prompts) else len(read) // batch_size * batch_size
    answers = [answer for answer in read[:whole] if answer is not None]
    if [answer.prompt_id for answer in answers] != [prompt.prompt_id for prompt in prompts[:whole]]:
        raise InputError(f"{path}: holds answers to other prompts; name another file, or remove this one")
    os.truncate(path, sum(len(line) + 1 for line in lines[:whole]))
    return answers
