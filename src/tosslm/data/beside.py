"""Texts of a conversation that stand beside its turns, in fields that a row's format does not read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tosslm.data.fields import is_filled
from tosslm.errors import RowError

_READ = {
    "messages": ("messages",),
    "prompt_completion": ("prompt", "completion", "system"),
    "alpaca": ("instruction", "input", "output", "system", "history"),
    "sharegpt": ("conversations", "system"),
    "hh": ("chosen", "text"),
}
"""Fields with texts of the conversation, by the format that reads them."""
_ANYWHERE = ("system_prompt", "system_message")
_UNREAD = {
    "messages": ("system", "history"),
    "prompt_completion": ("history", "input", "instruction", "context"),
    "alpaca": ("context",),
    "sharegpt": ("history",),
    "hh": ("system", "history"),
}
_REMEDIES = {
    "history": "write its turns into messages, or give the row the fields of alpaca, which has a history",
    "context": "write it into the prompt, or name it under the set's fields (input: context)",
    "instruction": "write it into the prompt",
    "input": "write it into the prompt, or give the row the fields of alpaca, which has an input",
}
_SYSTEM = "write it as the first message, with the role system"
_NAMED = "name it under the set's fields (system: {name})"


def check_beside(record: Mapping[str, object], format: str, messages: Sequence[Mapping[str, Any]]) -> None:
    """Refuse a row of which a part of the conversation would be left out.

    A text that stands in a turn as well is left out of nothing.

    Args:
        record: under the format's names.
        format: by which it was read.
        messages: what it was read as.

    Raises:
        RowError: names the field.
    """
    said = {str(message["content"]).strip() for message in messages}
    for name in (*_UNREAD[format], *_ANYWHERE):
        value = record.get(name)
        if not is_filled(value) or (isinstance(value, str) and any(value.strip() in text for text in said)):
            continue
        reads_system = "system" not in _UNREAD[format]
        remedy = _NAMED.format(name=name) if name in _ANYWHERE and reads_system else _REMEDIES.get(name, _SYSTEM)
        raise RowError(
            f"{name} stands beside the turns, and rows of format {format} are read without it",
            f"{remedy}; remove or rename the field where it is no part of the conversation",
        )


def check_named(record: Mapping[str, object], format: str, named: Mapping[str, str]) -> None:
    """Refuse a row with a text that the set's ``fields`` ask for and its format does not read.

    Args:
        record: under the format's names.
        format: by which it was read.
        named: the format's names of fields, and the data's.

    Raises:
        RowError: names the field.
    """
    texts = {name for names in _READ.values() for name in names}
    read = _READ[format] if format != "hh" else [next((name for name in _READ["hh"] if name in record), "")]
    for name, own in named.items():
        if name in texts and name not in read and is_filled(record.get(name)):
            raise RowError(
                f"fields has {own!r} stand for {name}, and rows of format {format} are read without it",
                f"write its text into a field that they have ({', '.join(_READ[format])}), or leave {name} out of "
                "fields",
            )
