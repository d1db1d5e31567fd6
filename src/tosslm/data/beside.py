"""Texts of a conversation that stand beside its turns, in fields that a row's format does not read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tosslm.data.fields import is_filled
from tosslm.errors import RowError

_ANYWHERE = ("system_prompt", "system_message")
_UNREAD = {
    "messages": ("system", "history"),
    "prompt_completion": ("history", "input"),
    "alpaca": (),
    "sharegpt": ("history",),
    "hh": ("system", "history"),
}
_REMEDIES = {
    "history": "write its turns into messages, or give the row the fields of alpaca, which has a history",
    "input": "write it into the prompt, or give the row the fields of alpaca, which has an input",
}
_SYSTEM = "write it as the first message, with the role system"
_NAMED = "name it under the set's fields (system: {name})"


def check_beside(record: Mapping[str, object], format: str, messages: Sequence[Mapping[str, Any]]) -> None:
    """Refuse a row of which a part of the conversation would be left out.

    A text that a turn says as well is left out of nothing.

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
        if not is_filled(value) or (isinstance(value, str) and value.strip() in said):
            continue
        reads_system = "system" not in _UNREAD[format]
        remedy = _NAMED.format(name=name) if name in _ANYWHERE and reads_system else _REMEDIES.get(name, _SYSTEM)
        raise RowError(
            f"{name} stands beside the turns, and rows of format {format} are read without it",
            f"{remedy}; remove or rename the field where it is no part of the conversation",
        )
