"""What a chat template does to every row, and a user should know before training on any."""

from __future__ import annotations

from tosslm.data.fields import THINK_END
from tosslm.data.template import PROBE, ChatTemplate
from tosslm.data.tokenize import RowTokenizer
from tosslm.data.tokenized import TokenizedRow
from tosslm.errors import RowError


def turn_ends(tokenize: RowTokenizer) -> list[int]:
    """Ids of the control tokens that the template writes after an answer's text; none where it writes none.

    Raises:
        RowError: the template wants a conversation of another shape.
    """
    row = tokenize(PROBE)
    return [token for token in _beside_text(row)[1] if token in tokenize.control_ids]


def reasons(tokenize: RowTokenizer) -> bool:
    """Whether the template knows of reasoning before an answer, by the tags that are common for it."""
    return THINK_END in tokenize.chat_template


def template_habits(tokenize: RowTokenizer) -> list[str]:
    """Sentences on a template that writes the date, never ends an answer, or has answers begin with a header.

    Nothing is said of a template that wants a conversation of another shape than one question and its answer.
    """
    template = ChatTemplate(tokenize.tokenizer)
    told = []
    if template.is_dated():
        told.append(
            "The chat template writes the date of the day into rows and prompts: on another day the tokens are "
            "others, of rows that are read anew and of what the model is asked. Write a fixed date into the "
            "tokenizer's chat_template."
        )
    try:
        before, after = _beside_text(tokenize(PROBE))
    except RowError:
        return told
    decode = tokenize.tokenizer.decode
    if not tokenize.control_ids.intersection(after):
        what = f"writes {decode(after)!r} there, which is no token of its own" if after else "writes nothing there"
        told.append(
            f"The chat template does not end an answer (it {what}), so the model is not taught when to stop. "
            f"Use the template that the model came with, or end the turn with {tokenize.tokenizer.eos_token!r}."
        )
    if not template.generation_prompt and tokenize.control_ids.intersection(before):
        told.append(
            f"The chat template heeds no add_generation_prompt: {decode(before)!r}, which it writes before an "
            "answer, is trained and scored as part of it. Use the template that the model came with."
        )
    return told


def _beside_text(row: TokenizedRow) -> tuple[list[int], list[int]]:
    """The response tokens before and after those that are the answer's own text."""
    response = [token for token, responds in zip(row.input_ids, row.response_mask, strict=True) if responds]
    text = [at for at, (message, _, _) in enumerate(row.offsets) if message >= 0]
    return (response[: text[0]], response[text[-1] + 1 :]) if text else ([], response)
