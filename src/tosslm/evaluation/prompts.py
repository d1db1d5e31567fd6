"""Prompts to evaluate on: conversations that end with a user's turn."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tosslm.data.beside import check_beside
from tosslm.data.fields import check_record, tools_of
from tosslm.data.formats import parse_record
from tosslm.data.places import check_split, locate
from tosslm.data.records import MAX_ROW_BYTES, records
from tosslm.data.rows import content_id
from tosslm.data.turns import Messages, check_text, kind_of
from tosslm.errors import InputError, RowError

PROMPT_FIELDS = ("prompt", "question", "goal", "behavior", "instruction")


@dataclass(frozen=True, slots=True)
class Prompt:
    """What a model is to answer.

    Attributes:
        prompt_id: 16 hex digits over the messages, made as row ids are; copies bear ``-2``, ``-3`` and so on.
        messages: as of ``data.formats.Conversation``, the last one a user's.
        record: the record it was read from, for what else it says (a label, a known answer).
    """

    prompt_id: str
    messages: Messages
    record: Mapping[str, Any]

    @property
    def text(self) -> str:
        """What the user said last."""
        return self.messages[-1]["content"]


def prompts_from(conversations: Sequence[Sequence[Mapping[str, Any]]]) -> list[Prompt]:
    """Prompts out of conversations; what stands after the last user's turn is left out.

    Raises:
        InputError: a conversation has no user's turn.
    """
    copies: Counter[str] = Counter()
    try:
        return [_prompt(_up_to_user(messages), {}, copies) for messages in conversations]
    except RowError as error:
        raise InputError(str(error)) from None


def read_prompts(
    paths: str | Sequence[str],
    *,
    where: Mapping[str, Any] | None = None,
    limit: int | None = None,
    split: str | None = None,
    max_row_bytes: int = MAX_ROW_BYTES,
) -> list[Prompt]:
    """Read prompts from files of the kinds that rows come in.

    A record's prompt is the text in its field ``prompt``, ``question``, ``goal``, ``behavior`` or ``instruction``;
    else the record is a row of any format, and its prompt is all up to the last user's turn.

    Args:
        paths: one or several files, saved folders, or hub ids.
        where: fields and the values that a record must have in them, such as ``{"label": "safe"}``.
        limit: take the first so many.
        split: of a saved dataset dictionary or hub id.
        max_row_bytes: of a record; one of more is refused.

    Raises:
        InputError: a file is missing or damaged, a record holds no prompt (the message has file and line), or no
            record is left.
    """
    copies: Counter[str] = Counter()
    prompts: list[Prompt] = []
    names = [paths] if isinstance(paths, str) else list(paths)
    for origin, record in _records(names, split, max_row_bytes):
        if limit is not None and len(prompts) == limit:
            break
        try:
            if isinstance(record, RowError):
                raise record
            if not isinstance(record, Mapping):
                raise RowError("the record is no object", 'write one such as {"prompt": "..."}')
            if missing := [name for name, value in (where or {}).items() if name not in record and value is not None]:
                raise RowError(
                    f"field {missing[0]!r}, by which prompts are taken, is missing",
                    "name another one under where, or add it",
                )
            if all(record.get(name) == value for name, value in (where or {}).items()):
                prompts.append(_prompt(_turns(record), record, copies))
        except RowError as error:
            raise InputError(f"{origin}: {error}") from None
    if not prompts:
        raise InputError(f"{', '.join(names)}: no prompt there{f' with {dict(where)}' if where else ''}")
    return prompts


def _records(names: Sequence[str], split: str | None, max_row_bytes: int) -> Iterator[tuple[str, object]]:
    places = [locate(name) for name in names]
    check_split(places, split, "split")
    for place in places:
        for number, record in records(place, split=split, max_row_bytes=max_row_bytes):
            yield f"{place.name}:{number}", record


def _turns(record: Mapping[str, Any]) -> Messages:
    found = [name for name in PROMPT_FIELDS if isinstance(record.get(name), str)]
    if not found:
        return _up_to_user(parse_record(record, answered=False)[0])
    text: str = record[found[0]]
    extra = record.get("input") if found[0] == "instruction" else None
    check_text(text, found[0])
    if not text.strip():
        raise RowError(f"{found[0]} is empty", "write the prompt there, or leave the record out")
    system = record.get("system") or ""
    if not isinstance(system, str):
        raise RowError(f"system is {kind_of(system)}, not text", "make it one string, or remove or rename the field")
    check_text(system, "system")
    user = {"role": "user", "content": f"{text}\n\n{extra}" if extra else text}
    messages: Messages = [*([{"role": "system", "content": system}] if system else []), user]
    others = {name: value for name, value in record.items() if name != "input" or found[0] != "instruction"}
    check_record(others, trained=False)
    check_beside(others, "prompt_completion", messages)
    if tools := tools_of(record):
        messages[0]["tools"] = tools
    return messages


def _up_to_user(messages: Sequence[Mapping[str, Any]]) -> Messages:
    users = [i for i, message in enumerate(messages) if message["role"] == "user"]
    if not users:
        raise RowError("the conversation has no user's turn", "give one for the model to answer")
    return [dict(turn) for turn in messages[: users[-1] + 1]]


def _prompt(messages: Messages, record: Mapping[str, Any], copies: Counter[str]) -> Prompt:
    prompt_id = content_id(messages)
    copies[prompt_id] += 1
    suffix = f"-{copies[prompt_id]}" if copies[prompt_id] > 1 else ""
    return Prompt(prompt_id + suffix, messages, record)
