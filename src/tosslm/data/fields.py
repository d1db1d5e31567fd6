"""Fields beside roles and texts that change what a row means: honoured where that is plain, refused where not."""

import json
from collections.abc import Mapping
from typing import Any

from tosslm.data.turns import kind_of
from tosslm.errors import RowError

_CALLS = ("functions", "tool_calls", "function_call", "tool_call_id", "tool_responses")
_RENDERING = ("documents", "chat_template", "chat_template_kwargs", "enable_thinking")
REASONING = ("reasoning_content", "reasoning", "thinking")
"""What chat templates call the reasoning beside an answer."""
THINK_START, THINK_END = "<think>", "</think>"
"""What most of them put around it."""
_MEDIA = ("image", "images", "image_url", "audio", "audios", "input_audio", "video", "videos")
_CONTINUED = ("prefix", "partial")
_DETAILS = ("train_detail", "train_details", "training_detail")

_TRAINED_WHERE_TRUE = ("weight", "loss_weight", "train", "training", "trainable", "loss", "loss_mask")
_TRAINED_WHERE_FALSE = ("mask", "masked")

_NO_PLACE = "a row here is roles, texts, reasoning and tools alone"
_NO_TOOLS = "write a list of objects, one a tool, or remove or rename the field"
_EMPTY_TEXTS = ("", "[]", "{}", "null")


def check_record(record: Mapping[str, object], *, trained: bool) -> None:
    """Refuse a record whose own fields say more than its roles and texts do.

    Args:
        record: what one row of the data holds.
        trained: whether it is a row to train on, so that what says otherwise counts.

    Raises:
        RowError: names the field.
    """
    _check_carried(record, "", _CALLS)
    # A record's own `reasoning` is what data sets call a note on the row; these two are always an answer's.
    for name in ("reasoning_content", "thinking"):
        if is_filled(value := record.get(name)) or value is False:
            raise RowError(
                f"{name} stands beside the row, not in one of its answers",
                "write it into the answer's turn (format messages), or remove or rename the field",
            )
    if trained:
        check_row_trains(record)


def check_row_trains(record: Mapping[str, object]) -> None:
    """Refuse a record whose own fields leave the whole row untrained, or weigh it.

    Raises:
        RowError: names the field.
    """
    for name in (*_TRAINED_WHERE_TRUE, *_TRAINED_WHERE_FALSE):
        if name != "loss" and isinstance(value := record.get(name), list | dict) and is_filled(value):
            raise RowError(
                f"{name} is {kind_of(value)} beside the row, which is trained as a whole",
                "write weight: 0 into the turns that are not trained, or remove or rename the field",
            )
    for name in _TRAINED_WHERE_TRUE:
        value = _as_said(record.get(name))
        # A number may be anything in a record's `loss`; `weight` is what trainers read one from.
        weighs = name.endswith("weight") and isinstance(value, int | float) and value != 1
        zero = name != "loss" and not isinstance(value, bool) and value == 0
        if value is False or weighs or zero:
            raise _not_trained(name, record[name])
    for name in _TRAINED_WHERE_FALSE:
        if _as_said(record.get(name)) is True:
            raise _not_trained(name, record[name])
    if record.get("label") is False:
        raise RowError(
            "label is false, which marks an answer not to be learnt",
            "remove the row, or the field where the answer is to be trained on",
        )


def _as_said(value: object) -> object:
    """A value that a table without types, such as CSV, made text of: ``"0"`` and ``"False"``; others as they are."""
    if not isinstance(value, str):
        return value
    text = value.strip().lower()
    if text in ("true", "false"):
        return text == "true"
    try:
        return float(text)
    except ValueError:
        return value


def check_preferences(record: Mapping[str, object], format: str) -> None:
    """Refuse answers that were compared beside the text that was found to be the row.

    Raises:
        RowError: names the field.
    """
    for name in ("chosen", "rejected"):
        if is_filled(record.get(name)):
            raise RowError(
                f"{name} stands beside a row of format {format}, and only one of them can be trained on",
                f"set format: {format} under the set's key to leave {name} unread, or remove the field",
            )


def check_turn(turn: Mapping[str, object], where: str) -> None:
    """Refuse a turn that holds more than a role and a text.

    Raises:
        RowError: names the turn and the field.
    """
    if is_filled(turn.get("tool_calls")) or is_filled(turn.get("function_call")):
        raise RowError(f"{where} calls a tool", "write the call as text of the turn, or remove the row")
    _check_carried(turn, f"{where}: ", ("tools", *_CALLS))
    for name in _CONTINUED:
        if turn.get(name) is True:
            raise RowError(
                f"{where}: {name} is true, so its text begins an answer, and would be learnt as the whole of it",
                "write the whole answer, or remove the row; remove or rename the field where it means nothing here",
            )
    check_no_details(turn, where)


def check_no_details(turn: Mapping[str, object], where: str) -> None:
    """Refuse a turn of which single characters are trained.

    Raises:
        RowError: names the turn and the field.
    """
    for name in _DETAILS:
        if is_filled(turn.get(name)):
            raise RowError(
                f"{where}: {name} says which of its characters are trained, which is not supported",
                "remove the field, or the row; a whole turn is left out by weight: 0",
            )


def tools_of(record: Mapping[str, object]) -> list[dict[str, Any]]:
    """The tools that a record offers the model, as its chat template takes them; none where it names none.

    As in TRL they may be the JSON text of a list, and nulls that Parquet fills absent fields with are left out.

    Raises:
        RowError: they are no list of objects.
    """
    value = record.get("tools")
    if isinstance(value, str) and value.strip():
        try:
            value = json.loads(value)
        except (ValueError, RecursionError) as error:
            raise RowError("tools is text that is no JSON", _NO_TOOLS) from error
    if not is_filled(value):
        return []
    if not isinstance(value, list) or not all(isinstance(tool, Mapping) and is_filled(tool) for tool in value):
        raise RowError("tools is no list of objects", _NO_TOOLS)
    try:
        tools = [_without_nulls(tool) for tool in value]
        json.dumps(tools, ensure_ascii=False).encode()  # as they are kept
    except (TypeError, ValueError, RecursionError) as error:
        raise RowError(f"tools holds what JSON cannot ({type(error).__name__})", _NO_TOOLS) from error
    return tools


def reasoning_of(turn: Mapping[str, object], where: str) -> dict[str, str]:
    """The reasoning beside an answer, by the name it has there.

    Raises:
        RowError: it is no text.
    """
    found = {}
    for name in REASONING:
        value = turn.get(name)
        if isinstance(value, str):
            if value.strip():
                found[name] = value
        elif value is False or is_filled(value):
            raise RowError(f"{where}: {name} is no text", "make it text, or remove or rename the field")
    return found


def _without_nulls(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(name): _without_nulls(one) for name, one in value.items() if one is not None}
    return [_without_nulls(one) for one in value] if isinstance(value, list | tuple) else value


def is_trained(turn: Mapping[str, object], where: str) -> bool:
    """Whether the turn's own fields leave it to be trained on; ``weight: 0`` and its like say no.

    Raises:
        RowError: a field says neither yes nor no.
    """
    trained = True
    for name in _TRAINED_WHERE_TRUE:
        value = turn.get(name)
        if value is None or _empty(value):
            continue
        if not isinstance(value, bool | int | float) or value not in (0, 1):
            raise RowError(
                f"{where}: {name} is {_shown(value)}, neither 0 nor 1",
                "a turn is trained or it is not: make it 0 or 1",
            )
        trained = trained and bool(value)
    for name in _TRAINED_WHERE_FALSE:
        value = turn.get(name)
        if value is None or _empty(value):
            continue
        # A mask of 1 means trained to some tools and hidden to others.
        if not isinstance(value, bool):
            raise RowError(
                f"{where}: {name} is {_shown(value)}, neither true nor false",
                "make it true (context only) or false, or write weight: 0 or 1 instead",
            )
        trained = trained and not value
    return trained


def _check_carried(holder: Mapping[str, object], where: str, tools: tuple[str, ...]) -> None:
    for names, what, remedy in (
        (tools, "holds tools", "write them into the row's field tools, calls as text of a turn"),
        (_RENDERING, "changes how the row is rendered", "set it in the tokenizer's chat template for all rows"),
        (_MEDIA, "holds an image, sound or film", "keep rows of text alone"),
    ):
        for name in names:
            # `enable_thinking: false` is what changes the text; true is what templates do anyway.
            if is_filled(value := holder.get(name)) or (value is False and "thinking" in name):
                raise RowError(
                    f"{where}{name} {what}, and {_NO_PLACE}",
                    f"{remedy}, or remove the row; remove or rename the field where it means nothing here",
                )


def _not_trained(name: str, value: object) -> RowError:
    if isinstance(said := _as_said(value), bool) or said == 0:
        return RowError(
            f"{name} is {_shown(value)}, which keeps the whole row from being trained",
            "remove the row, or the field where the row is to be trained on",
        )
    return RowError(
        f"{name} is {_shown(value)}, and every row counts the same here",
        "remove or rename the field, or leave the row out",
    )


def _empty(value: object) -> bool:
    return isinstance(value, str | list | dict) and not value


def is_filled(value: object) -> bool:
    """Whether a field has content other than a number; Parquet fills absent ones with objects and lists of nulls."""
    if isinstance(value, bool | int | float):
        return False
    waiting = [value]
    while waiting:
        one = waiting.pop()
        if isinstance(one, Mapping):
            if not one and one is not value:
                return True
            waiting += one.values()
        elif isinstance(one, list | tuple):
            waiting += one
        elif isinstance(one, str):
            if one.strip() not in _EMPTY_TEXTS:
                return True
        elif one is not None:
            return True
    return False


def _shown(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return repr(value)[:40]
