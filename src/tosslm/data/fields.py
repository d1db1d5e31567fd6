"""Fields beside roles and texts that change what a row means: honoured where that is plain, refused where not."""

from collections.abc import Mapping

from tosslm.errors import RowError

_TOOLS = ("tools", "functions", "tool_calls", "function_call", "tool_call_id", "tool_responses")
_RENDERING = ("documents", "chat_template", "chat_template_kwargs", "enable_thinking")
_REASONING = ("reasoning_content", "thinking")
_MEDIA = ("image", "images", "image_url", "audio", "audios", "input_audio", "video", "videos")
_DETAILS = ("train_detail", "train_details", "training_detail")

_TRAINED_WHERE_TRUE = ("weight", "loss_weight", "train", "training", "trainable", "loss", "loss_mask")
_TRAINED_WHERE_FALSE = ("mask", "masked")

_NO_PLACE = "a row here is roles and texts alone"
_EMPTY_TEXTS = ("", "[]", "{}", "null")


def check_record(record: Mapping[str, object], *, trained: bool) -> None:
    """Refuse a record whose own fields say more than its roles and texts do.

    Args:
        record: what one row of the data holds.
        trained: whether it is a row to train on, so that what says otherwise counts.

    Raises:
        RowError: names the field.
    """
    _check_carried(record, "", _REASONING)
    if not trained:
        return
    for name in _TRAINED_WHERE_TRUE:
        value = record.get(name)
        # A number may be anything in a record's `loss`; `weight` is what trainers read one from.
        numeric = name.endswith("weight") and isinstance(value, int | float) and value != 1
        if value is False or numeric:
            raise _not_trained(name, value)
    for name in _TRAINED_WHERE_FALSE:
        if record.get(name) is True:
            raise _not_trained(name, True)
    if record.get("label") is False:
        raise RowError(
            "label is false, which marks an answer not to be learnt",
            "remove the row, or the field where the answer is to be trained on",
        )


def check_preferences(record: Mapping[str, object], format: str) -> None:
    """Refuse answers that were compared beside the text that was found to be the row.

    Raises:
        RowError: names the field.
    """
    for name in ("chosen", "rejected"):
        if _filled(record.get(name)):
            raise RowError(
                f"{name} stands beside a row of format {format}, and only one of them can be trained on",
                f"set format: {format} under the set's key to leave {name} unread, or remove the field",
            )


def check_turn(turn: Mapping[str, object], where: str) -> None:
    """Refuse a turn that holds more than a role and a text.

    Raises:
        RowError: names the turn and the field.
    """
    if _filled(turn.get("tool_calls")) or _filled(turn.get("function_call")):
        raise RowError(f"{where} calls a tool", "write the call as text of the turn, or remove the row")
    _check_carried(turn, f"{where}: ", (*_REASONING, "reasoning"))
    for name in _DETAILS:
        if _filled(turn.get(name)):
            raise RowError(
                f"{where}: {name} says which of its characters are trained, which is not supported",
                "remove the field, or the row; a whole turn is left out by weight: 0",
            )


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


def _check_carried(holder: Mapping[str, object], where: str, reasoning: tuple[str, ...]) -> None:
    for names, what, remedy in (
        (_TOOLS, "holds tools", "write them as text of a turn"),
        (_RENDERING, "changes how the row is rendered", "set it in the tokenizer's chat template for all rows"),
        (reasoning, "holds reasoning beside the answer", "write it into the answer's text as the model does"),
        (_MEDIA, "holds an image, sound or film", "keep rows of text alone"),
    ):
        for name in names:
            # `enable_thinking: false` is what changes the text; true is what templates do anyway.
            if _filled(value := holder.get(name)) or (value is False and "thinking" in name):
                raise RowError(
                    f"{where}{name} {what}, and {_NO_PLACE}",
                    f"{remedy}, or remove the row; remove or rename the field where it means nothing here",
                )


def _not_trained(name: str, value: object) -> RowError:
    if isinstance(value, bool) or value == 0:
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


def _filled(value: object) -> bool:
    """Whether there is any content in a field; Parquet fills absent ones with objects and lists of nulls."""
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
