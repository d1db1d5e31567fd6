"""What of a conversation the chat template does not write: refused where it would be in vain, else counted."""

from __future__ import annotations

from collections.abc import Sequence

from tosslm.data.fields import REASONING
from tosslm.data.template import ChatTemplate, Messages, Turn
from tosslm.errors import RowError


def prompt_text(template: ChatTemplate, messages: Messages) -> str:
    """A prompt as the model is asked it, generation prompt and all.

    Raises:
        RowError: the template refuses it, or has no place for its tools or its system message.
    """
    check_tools(template, messages)
    unwritten(template, messages, template.render(messages))
    return template.render(messages, add_generation_prompt=True)


def check_tools(template: ChatTemplate, messages: Messages) -> None:
    """Refuse tools that the template does not write.

    Raises:
        RowError: the conversation offers some, and reads the same without them.
    """
    if not any(message.get("tools") for message in messages):
        return
    bare = [{name: value for name, value in message.items() if name != "tools"} for message in messages]
    if template.render(bare) == template.render(messages):
        raise RowError(
            "the row offers tools, and the chat template has no place for them",
            "use the chat template of a model that takes tools, write them as text of a turn, or remove the row",
        )


def unwritten(template: ChatTemplate, messages: Messages, text: str) -> list[list[int]]:
    """``[message, 0, length]`` of each system message and user's turn that the template rewrites or leaves out.

    Args:
        template: that wrote the text.
        messages: the conversation.
        text: that it was rendered as, without a generation prompt.

    Raises:
        RowError: a system message stands there in vain.
    """
    gone, reached = [], 0
    for index, message in enumerate(messages):
        if message["role"] == "assistant":
            continue
        content = message["content"].strip()
        found = text.find(content, reached)  # most templates keep the order
        if found < 0 and content not in text:
            gone.append(index)
        reached = max(reached, found + len(content))
    if gone and messages[gone[0]]["role"] == "system" and _is_idle(template, messages, gone[0], text):
        raise RowError(
            "the row has a system message, and the chat template has no place for it",
            "write it into the first user's turn, use a chat template that takes one, or remove it",
        )
    return [[index, 0, len(messages[index]["content"])] for index in gone]


def unreasoned(messages: Messages, text: str, turns: Sequence[Turn]) -> list[list[int]]:
    """``[message, 0, 0]`` of each answer whose reasoning the template leaves out, as many do in earlier turns.

    Raises:
        RowError: it leaves out that of the last message too, so it knows none of that name.
    """
    left_out = []
    for turn in turns:
        message = messages[turn.message]
        for name in REASONING:
            if text.find(message.get(name, "").strip(), turn.start, turn.end) >= 0:
                continue
            if turn.message == len(messages) - 1:
                raise RowError(
                    f"message {turn.message} has {name}, and the chat template does not write it",
                    "rename it to what the template calls reasoning, write it into the answer's text as the model "
                    "does, or remove the field",
                )
            left_out.append([turn.message, 0, 0])
    return left_out


def _is_idle(template: ChatTemplate, messages: Messages, index: int, text: str) -> bool:
    """Whether a conversation reads the same without one of its messages."""
    others = [dict(message) for i, message in enumerate(messages) if i != index]
    if others and (tools := messages[index].get("tools")):
        others[0]["tools"] = tools
    try:
        return template.render(others) == text
    except RowError:
        return False
