"""What makes the turns of a record good messages, and its marks good spans."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, TypeAlias

from tosslm.errors import RowError

Messages: TypeAlias = list[dict[str, Any]]
Spans: TypeAlias = list[list[int]]
_SPAN = "[start, end], or [message index, start, end] where the row has several answers"
_TOOL_ROLES = {"tool", "developer", "function", "function_call", "function_response", "observation"}


class Said(NamedTuple):
    """What a record claims of a turn, before its role and texts have been checked.

    Attributes:
        role: who speaks.
        content: what is said.
        trained: whether it is trained on, where it is an assistant's.
        reasoning: what the answer was reasoned from, by the name it has in the data.
    """

    role: object
    content: object
    trained: bool = True
    reasoning: Mapping[str, str] = {}


Turns: TypeAlias = list[Said]


def checked_messages(turns: Turns, answered: bool) -> Messages:
    """Turns as messages.

    Args:
        turns: as a record claims them.
        answered: whether the last one has to be an assistant's.

    Raises:
        RowError: a role is unknown or out of turn, a text is missing, or there is no turn.
    """
    messages: Messages = []
    for number, (role, content, _, reasoning) in enumerate(turns):
        where = f"messages[{number}]"
        _check_role(role, where, first=number == 0, after=messages[-1]["role"] if messages else "system")
        if not isinstance(content, str):
            raise RowError(f"the content of {where} is {kind_of(content)}, not text", "make it one string")
        if role != "system" and not content.strip():
            raise RowError(f"the content of {where} ({role}) is empty", "fill it in or remove the row")
        check_text(content, f"the content of {where}")
        if reasoning and role != "assistant":
            raise RowError(f"{where} ({role}) has {min(reasoning)}", "only an answer has reasoning; remove the field")
        for name, text in reasoning.items():
            check_text(text, f"{name} of {where}")
        messages.append({"role": str(role), "content": content, **reasoning})
    if not messages:
        raise RowError("the row has no messages", "give it a user and an assistant turn, or remove it")
    if answered and messages[-1]["role"] != "assistant":
        raise RowError(f"the last turn is of {messages[-1]['role']!r}", "end the row with an assistant turn")
    return messages


def _check_role(role: object, where: str, *, first: bool, after: str) -> None:
    if isinstance(role, str) and role in _TOOL_ROLES:
        raise RowError(
            f"{where} has the role {role!r}", "write it as system, user or assistant text, or remove the row"
        )
    if role not in ("system", "user", "assistant"):
        shown = repr(role[:40]) if isinstance(role, str) else kind_of(role)
        raise RowError(f"{where} has the unknown role {shown}", "use system, user and assistant")
    expected = "assistant" if after == "user" else "user"
    if role != expected and not (first and role == "system"):
        raise RowError(
            f"{where} is of {role!r} where {expected!r} is due",
            "put an optional system turn first, then user and assistant turns by turns",
        )


def check_text(text: str, where: str) -> None:
    """Refuse text that UTF-8 cannot hold.

    Raises:
        RowError: `text` has a lone surrogate, as JSON can smuggle in by an escape of half a pair.
    """
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise RowError(
            f"{where} has a lone surrogate at character {error.start}",
            r"replace the broken \uD800-\uDFFF escape",
        ) from error


def checked_spans(spans: object, messages: Messages) -> Spans | None:
    """Marks as triples ``[message index, start, end]``; None where there are none.

    Raises:
        RowError: one lies outside of an answer's text.
    """
    if spans is None:
        return None
    if not isinstance(spans, list):
        raise RowError(f"unsafe_spans is {kind_of(spans)}", f"make it a list, and each span of it {_SPAN}")
    return [_span(span, f"unsafe_spans[{number}]", messages) for number, span in enumerate(spans)]


def _span(span: object, where: str, messages: Messages) -> list[int]:
    # `type() is int`, because True and False are ints to isinstance.
    if not isinstance(span, list | tuple) or len(span) not in (2, 3) or any(type(n) is not int for n in span):
        raise RowError(f"{where} is not two or three whole numbers", f"make it {_SPAN}")
    answers = [number for number, message in enumerate(messages) if message["role"] == "assistant"]
    if len(span) == 2 and len(answers) > 1:
        raise RowError(f"{where} is a pair, but the row has {len(answers)} answers", "add the message index in front")
    index, start, end = span if len(span) == 3 else (answers[0], *span)
    if index not in answers:
        raise RowError(f"{where} points to message {index}", f"point it to an assistant message: {answers[:10]}")
    length = len(messages[index]["content"])
    if not 0 <= start < end <= length:
        raise RowError(
            f"{where} is {start} to {end} in a text of {length} characters", "keep 0 <= start < end <= length"
        )
    return [index, start, end]


def kind_of(value: object) -> str:
    """What a value is, in words."""
    names = {
        bool: "true or false",
        int: "a number",
        float: "a number",
        list: "a list",
        dict: "an object",
        str: "text",
    }
    return "null" if value is None else names.get(type(value), f"a {type(value).__name__}")


def fields_of(record: Mapping[str, object]) -> str:
    """The names of a record's fields, in words; those that are null come last."""
    # repr, because a field's name is the data's own and may hold anything, line feeds included.
    names = [repr(str(name)[:40]) for name, value in record.items() if value is not None]
    names += [f"{str(name)[:40]!r} (null)" for name, value in record.items() if value is None]
    more = f" and {len(names) - 12} more" if len(names) > 12 else ""
    return f"fields found: {', '.join(names[:12]) or 'none'}{more}"
