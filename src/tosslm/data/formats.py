"""Records to messages: the five row formats, and what makes a record a good row."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TypeAlias

from tosslm.data.beside import check_beside, check_named
from tosslm.data.fields import check_preferences, check_record, check_turn, is_trained, reasoning_of, tools_of
from tosslm.data.turns import Messages, Said, Spans, Turns, checked_messages, checked_spans, fields_of, kind_of
from tosslm.errors import InputError, RowError

Record: TypeAlias = Mapping[str, object]

FORMATS = ("messages", "prompt_completion", "alpaca", "sharegpt", "hh")
REQUIRED_FIELDS = {
    "messages": ("messages",),
    "prompt_completion": ("prompt", "completion"),
    "alpaca": ("instruction", "output"),
    "sharegpt": ("conversations",),
}
HH_FIELDS = ("chosen", "text")

_SHAREGPT_ROLES = {
    **dict.fromkeys(("human", "user"), "user"),
    **dict.fromkeys(("gpt", "assistant", "chatgpt", "bot", "model"), "assistant"),
    "system": "system",
}
_HH_TURN = re.compile(r"(?:\A\s*|\n\n)(Human|Assistant):")
_KNOWN = (
    "known formats: messages; prompt + completion; instruction (+ input) + output; conversations; "
    "Human:/Assistant: text in chosen or text"
)


def check_format(format: str, field: str | None) -> None:
    """Refuse a format that does not exist, or a field that the format has no use for.

    Raises:
        InputError: with the choices there are.
    """
    if format not in ("auto", *FORMATS):
        raise InputError(f"unknown row format {format!r}; choose auto, {', '.join(FORMATS)}")
    if field is not None and format not in ("auto", "hh"):
        raise InputError(
            f"field {field!r} with format {format!r}: only hh text lies in a field of choice; leave it out"
        )


@dataclass(frozen=True, slots=True)
class Conversation:
    """What one record says.

    Attributes:
        messages: ``role`` and ``content`` of each turn, and beside them ``reasoning_content``, ``reasoning`` or
            ``thinking`` where the data have it; the first one bears the row's ``tools``, where it has any.
        unsafe_spans: triples ``[message index, start, end]`` in code points of that message's content, or None
            where the record does not mark any.
        context: indices of the assistant turns that are neither trained nor scored.
    """

    messages: Messages
    unsafe_spans: Spans | None
    context: frozenset[int]


def parse_record(
    record: object, format: str = "auto", field: str | None = None, *, answered: bool = True
) -> tuple[Messages, Spans | None]:
    """The messages of a record and its unsafe spans; `parse_conversation` tells more.

    Example:
        >>> parse_record({"prompt": "Hi", "completion": "Hello.", "unsafe_spans": [[0, 5]]})
        ([{'role': 'user', 'content': 'Hi'}, {'role': 'assistant', 'content': 'Hello.'}], [[1, 0, 5]])
    """
    parsed = parse_conversation(record, format, field, answered=answered)
    return parsed.messages, parsed.unsafe_spans


def parse_conversation(
    record: object,
    format: str = "auto",
    field: str | None = None,
    *,
    answered: bool = True,
    named: Mapping[str, str] = MappingProxyType({}),
) -> Conversation:
    """Read one record as a conversation.

    A field that is null counts as absent, as Parquet cannot leave one out. Contents are kept to the
    character; only the turns of HH text lose the white space around them. A ``system`` text stands first. An
    assistant turn with ``weight: 0``, ``train: false`` or their like, or in a ``prompt`` of messages, is context.
    Tools and an answer's reasoning go to the chat template. Fields that would change what a row means and have no
    place in it, such as calls of tools, or a ``history`` that the format does not read, are refused; other fields
    are left alone.

    Args:
        record: what one line or row of the data holds.
        format: one of `FORMATS`, or ``"auto"`` to tell it from the record's fields.
        field: the field of HH text; naming one means the format is ``"hh"``.
        answered: whether the last turn has to be an assistant's, as in a row to train on.
        named: fields that are asked for by name, the format's and the data's; each has to be read.

    Raises:
        RowError: the record is not a good row.
        InputError: `format` is unknown, or `field` does not go with it.
    """
    check_format(format, field)
    if not isinstance(record, Mapping):
        raise RowError(f"the row is {kind_of(record)}, not an object", "write one JSON object a row")
    present = {name: value for name, value in record.items() if value is not None}
    if format == "auto":
        format = "hh" if field is not None else _detect(present, record)
        if format != "hh":
            check_preferences(present, format)
    check_record(present, trained=answered)
    for name in REQUIRED_FIELDS.get(format, ()):
        if name not in present:
            raise _absent(name, record, f"format {format} needs it")
    turns = _hh(present, field, record) if format == "hh" else _READERS[format](present)
    messages = checked_messages(turns, answered)
    check_named(present, format, named)
    check_beside(present, format, messages)
    if tools := tools_of(present):
        messages[0]["tools"] = tools
    context = frozenset(n for n, said in enumerate(turns) if said.role == "assistant" and not said.trained)
    if answered and len(context) == sum(message["role"] == "assistant" for message in messages):
        raise RowError("no answer of the row is to be trained", "remove the row, or train one of its answers")
    return Conversation(messages, checked_spans(present.get("unsafe_spans"), messages), context)


def _absent(name: str, record: Record, needed: str) -> RowError:
    """A field that is missing, or there and null, which are mended in different ways."""
    lack = "null" if name in record else "missing"
    return RowError(f"field {name!r} is {lack}", f"{needed}; {fields_of(record)}")


def _detect(record: Record, whole: Record) -> str:
    """The format that a record has, by its fields that are not null; ``whole`` has the others too."""
    candidates = [name for name, needed in REQUIRED_FIELDS.items() if all(key in record for key in needed)]
    # Alpaca files often carry a rendered `text` and preference data a `chosen` list, so the name of the
    # field alone does not make a record HH text.
    if any(isinstance(text := record.get(name), str) and _HH_TURN.match(text) for name in HH_FIELDS):
        candidates.append("hh")
    if len(candidates) == 1:
        return candidates[0]
    if candidates:
        raise RowError(
            f"the fields fit several formats: {', '.join(candidates)}; {fields_of(record)}", "name the format"
        )
    with_nulls = [needed for needed in REQUIRED_FIELDS.values() if all(key in whole for key in needed)]
    if len(with_nulls) == 1:
        null = next(name for name in with_nulls[0] if name not in record)
        raise _absent(null, whole, "fill it in, or remove the row")
    raise RowError(f"the fields fit no format; {fields_of(whole)}", f"name the format or rename fields; {_KNOWN}")


def _messages(record: Record) -> Turns:
    return _turns(record["messages"], "messages", "role", "content")


def _prompt_completion(record: Record) -> Turns:
    prompt, completion = record["prompt"], record["completion"]
    if isinstance(prompt, list) and isinstance(completion, list):
        # As in TRL: a prompt is given, whoever spoke in it.
        given = [said._replace(trained=False) for said in _turns(prompt, "prompt", "role", "content")]
        return _system(record) + given + _turns(completion, "completion", "role", "content")
    if isinstance(prompt, list) or isinstance(completion, list):
        raise RowError(
            f"prompt is {kind_of(prompt)} and completion is {kind_of(completion)}",
            "make both text or both lists of messages",
        )
    return [*_system(record), Said("user", prompt), Said("assistant", completion)]


def _alpaca(record: Record) -> Turns:
    turns = _system(record)
    history = record.get("history", [])
    if not isinstance(history, list):
        raise RowError(f"history is {kind_of(history)}", "make it a list of [user, assistant] pairs")
    for number, pair in enumerate(history):
        if not isinstance(pair, list | tuple) or len(pair) != 2:
            raise RowError(f"history[{number}] is not a pair", "make it [user, assistant]")
        turns += [Said("user", pair[0]), Said("assistant", pair[1])]
    asked = [record["instruction"], record.get("input", "")]
    for name, text in zip(("instruction", "input"), asked, strict=True):
        if not isinstance(text, str):
            raise RowError(f"{name} is {kind_of(text)}, not text", "make it one string")
    return [
        *turns,
        Said("user", "\n\n".join(str(text) for text in asked if text)),
        Said("assistant", record["output"]),
    ]


def _sharegpt(record: Record) -> Turns:
    turns = _turns(record["conversations"], "conversations", "from", "value")
    return _system(record) + [
        said._replace(role=_SHAREGPT_ROLES.get(said.role, said.role) if isinstance(said.role, str) else said.role)
        for said in turns
    ]


def _hh(record: Record, field: str | None, whole: Record) -> Turns:
    name = field or next((name for name in HH_FIELDS if name in record), HH_FIELDS[0])
    if name not in record:
        raise _absent(name, whole, "name the field of the text")
    text = record[name]
    if not isinstance(text, str):
        raise RowError(f"{name} is {kind_of(text)}, not text", "make it one string of Human: and Assistant: turns")
    before, *pieces = _HH_TURN.split(text)
    if before.strip() or not pieces:
        raise RowError(f"{name} does not begin with Human:", r"write it as \n\nHuman: ...\n\nAssistant: ...")
    speakers = {"Human": "user", "Assistant": "assistant"}
    return [Said(speakers[who], said.strip()) for who, said in zip(pieces[::2], pieces[1::2], strict=True)]


_READERS: dict[str, Callable[[Record], Turns]] = {
    "messages": _messages,
    "prompt_completion": _prompt_completion,
    "alpaca": _alpaca,
    "sharegpt": _sharegpt,
}


def _system(record: Record) -> Turns:
    system = record.get("system", "")
    return [Said("system", system)] if system != "" else []


def _turns(value: object, name: str, role: str, content: str) -> Turns:
    if not isinstance(value, list | tuple):
        raise RowError(
            f"{name} is {kind_of(value)}, not a list", f"make it a list of objects with {role} and {content}"
        )
    for number, turn in enumerate(value):
        where = f"{name}[{number}]"
        if not isinstance(turn, Mapping):
            raise RowError(f"{where} is {kind_of(turn)}", f"make it an object with {role} and {content}")
        for key in (role, content):
            if key not in turn:
                raise RowError(f"{where} has no {key!r}; {fields_of(turn)}", f"give it {role} and {content}")
        check_turn(turn, where)
    return [
        Said(turn[role], turn[content], is_trained(turn, where := f"{name}[{number}]"), reasoning_of(turn, where))
        for number, turn in enumerate(value)
    ]
