"""A conversation as text, and where in that text each answer stands.

What a model must produce starts where its generation prompt ends. A chat template does not say where that is
unless it carries ``{% generation %}`` markers, so there are three ways to find out, best first: the
tokenizer's own markers, the marked template that TRL ships for many model families, and the difference
between renderings of growing prefixes of the conversation.
"""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jinja2.exceptions import TemplateError, TemplateSyntaxError
from transformers.utils.chat_template_utils import render_jinja_template
from trl.chat_template_utils import get_training_chat_template, has_generation_markers

from tosslm.errors import InputError, RowError

Messages = Sequence[Mapping[str, Any]]

PROBE = [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}]
"""A question and its answer, to see what a template does to any."""
_TODAY = "{{% macro strftime_now(format) %}}{day} May 2026{{% endmacro %}}"
_PROMPT_PART = re.compile(r"[^>\n]*>|[^>\n]*\n+|[^>\n]+$")  # tags and lines


@dataclass(frozen=True, slots=True)
class Turn:
    """One assistant turn in the rendered text.

    Args:
        message: index of the message in the conversation.
        start: first character after the generation prompt.
        end: end (exclusive) of what the template writes for the turn; may take in a newline after the end of
            turn.
    """

    message: int
    start: int
    end: int


class ChatTemplate:
    """Renders conversations with a tokenizer's chat template and knows where the answers are.

    Args:
        tokenizer: any Hugging Face tokenizer with a chat template; of named templates, ``default`` is used.

    Attributes:
        source: the Jinja text in use; ``tokenizer.apply_chat_template(messages, chat_template=source)``
            renders the same text.
        method: how the answers are found: ``"generation markers"`` (the tokenizer's own template has them),
            ``"TRL training template"`` (TRL knows a marked version of it) or ``"prefix differences"``.
        generation_prompt: what the template appends for an answer to follow; empty where it appends nothing.

    Raises:
        InputError: the tokenizer has no chat template, or one that is not valid Jinja or leaves out answers.
    """

    def __init__(self, tokenizer: Any) -> None:
        self.source, self.method = _choose_template(tokenizer)
        self._variables: dict[str, Any] = dict(tokenizer.special_tokens_map)
        try:
            self.generation_prompt = self._probe_generation_prompt()
            self._prompt_in_range = self._probe_answer()
        except TemplateSyntaxError as error:
            raise InputError(
                f"the tokenizer's chat template is not valid Jinja: {error.message} (line {error.lineno}); "
                "mend tokenizer.chat_template"
            ) from error

    def render(self, messages: Messages, *, add_generation_prompt: bool = False) -> str:
        """The conversation as text.

        Raises:
            RowError: the template refuses the conversation, for instance a system message or two user turns
                in a row.
        """
        return self._render(messages, add_generation_prompt=add_generation_prompt)[0]

    def render_turns(
        self, messages: Messages, wanted: Collection[int], *, within: int | None = None
    ) -> tuple[str, list[Turn]]:
        """The conversation as text, and assistant turns in it, in order.

        Args:
            messages: the conversation.
            wanted: indices of the assistant messages whose turns are asked for.
            within: characters of the text; turns that start behind them are left out.

        Raises:
            RowError: the template refuses the conversation, or the turns cannot be told apart in its output.
        """
        answers = [i for i, message in enumerate(messages) if message["role"] == "assistant"]
        if self.method == "prefix differences":
            return self._turns_by_prefixes(messages, [i for i in answers if i in wanted], within)
        text, turns = self._turns_by_markers(messages, answers)
        return text, [t for t in turns if t.message in wanted and (within is None or t.start < within)]

    def is_dated(self) -> bool:
        """Whether what it writes depends on the day."""
        if "strftime_now" not in self.source:
            return False
        try:
            first, second = (self._render(PROBE, opening=_TODAY.format(day=day)) for day in (1, 2))
        except RowError:
            return True
        return first != second

    def _render(
        self,
        messages: Messages,
        *,
        add_generation_prompt: bool = False,
        mark: bool = False,
        opening: str = "",
    ) -> tuple[str, list[tuple[int, int]]]:
        tools = next((message["tools"] for message in messages if message.get("tools")), None)
        bare = [{name: value for name, value in message.items() if name != "tools"} for message in messages]
        try:
            texts, ranges = render_jinja_template(
                conversations=[bare],
                tools=tools,
                chat_template=opening + self.source,
                return_assistant_tokens_mask=mark,
                add_generation_prompt=add_generation_prompt,
                **self._variables,
            )
        except TemplateSyntaxError:
            raise
        except Exception as error:  # a template is a program: it may divide by zero, or recur without end
            said = str(error) if isinstance(error, TemplateError | TypeError) else f"{type(error).__name__}: {error}"
            raise RowError(
                f"the chat template refuses this conversation: {said}",
                "change the row's roles or their order to what the model was trained on, or leave the row "
                "out with data.on_bad_row: skip",
            ) from error
        return texts[0], ranges[0] if ranges else []

    def _probe_generation_prompt(self) -> str:
        probe = PROBE[:1]
        try:
            without, full = self.render(probe), self.render(probe, add_generation_prompt=True)
        except RowError:
            return ""
        return full[len(without) :] if full.startswith(without) else ""

    def _probe_answer(self) -> str:
        """The part of the generation prompt that stands inside a marked range; found once, on plain text."""
        answer = "the answer"
        probe = [PROBE[0], PROBE[1] | {"content": answer}]
        try:
            text, ranges = self._render(probe, mark=self.method != "prefix differences")
        except RowError:
            return ""  # Rows will tell; this template may want a conversation of another shape.
        if answer not in text.lower():
            raise InputError(
                "the chat template leaves out an assistant message whose content is text (templates of "
                "vision models want a list of parts); set tokenizer.chat_template to one that takes text"
            )
        return _prompt_in_range(text, *ranges[0], self.generation_prompt) if ranges else ""

    def _turns_by_markers(self, messages: Messages, answers: list[int]) -> tuple[str, list[Turn]]:
        text, ranges = self._render(messages, mark=True)
        if len(ranges) != len(answers):
            ranges = _joined(ranges)  # Phi-3's last turn has two: the answer, and the end of the text.
        if len(ranges) != len(answers):
            raise RowError(
                f"the chat template marks {len(ranges)} generated ranges for {len(answers)} assistant turns",
                "give a template that puts {% generation %} ... {% endgeneration %} once around each assistant turn",
            )
        inside = self._prompt_in_range
        turns = [
            Turn(message, start + len(inside) * text.startswith(inside, start, end), end)
            for message, (start, end) in zip(answers, ranges, strict=True)
        ]
        return text, turns

    def _turns_by_prefixes(
        self, messages: Messages, answers: list[int], within: int | None
    ) -> tuple[str, list[Turn]]:
        text = self.render(messages)
        turns: list[Turn] = []
        for message in answers:
            is_last = message == len(messages) - 1
            upto = text if is_last else self.render(messages[: message + 1])
            if message == 0:
                # Many templates cannot render an empty conversation, or render it with another opening.
                found = upto.find(self.generation_prompt) if self.generation_prompt else -1
                prefix = upto[: found + len(self.generation_prompt)] if found >= 0 else None
            else:
                prefix = self.render(messages[:message], add_generation_prompt=True)
            if prefix is None or not upto.startswith(prefix) or not text.startswith(upto):
                raise RowError(
                    "the chat template is not prefix-stable: a longer conversation changes how its beginning "
                    f"is rendered, so assistant message {message} cannot be told from what stands before it",
                    "give the tokenizer a chat template with {% generation %} ... {% endgeneration %} "
                    "markers around assistant turns",
                )
            if within is not None and len(prefix) >= within:
                break  # Each turn is rendered with all before it: of thousands the last ones would take for ever.
            turns.append(Turn(message, len(prefix), len(upto)))
        return text, turns


def _prompt_in_range(text: str, start: int, end: int, prompt: str) -> str:
    # Some templates open the marker inside the generation prompt: Qwen2.5's before the newline of the header.
    # A prompt may also open a thinking block that the turn lacks; what comes before it is tried then.
    parts = _PROMPT_PART.findall(prompt)
    for kept in range(len(parts), 0, -1):
        head = "".join(parts[:kept])
        for at in range(max(0, start - len(head)), start + 1):
            if text.startswith(head, at, end):
                return text[start : at + len(head)]
    return ""


def _joined(ranges: list[tuple[int, int]]) -> list[tuple[int, int]]:
    joined = ranges[:1]
    for start, end in ranges[1:]:
        if start == joined[-1][1]:
            joined[-1] = (joined[-1][0], end)
        else:
            joined.append((start, end))
    return joined


def _choose_template(tokenizer: Any) -> tuple[str, str]:
    own = tokenizer.chat_template
    if isinstance(own, Mapping):
        own = own.get("default")
    if not own:
        raise InputError(
            f"the tokenizer has no chat template{' named default' if tokenizer.chat_template else ''}; "
            "use the model's chat (instruct) version, or set tokenizer.chat_template"
        )
    if has_generation_markers(own):
        return own, "generation markers"
    try:
        known = get_training_chat_template(tokenizer)
    except Exception:  # it renders the template, which may raise whatever
        known = None  # TRL does not know this template.
    return (known, "TRL training template") if known else (own, "prefix differences")
