"""Conversations to token ids, response masks and character spans: the one tokenisation path.

Scoring, training, export and the report all read what is written here, so a label can never shift against a
score. The rendered conversation is encoded once, as a whole, as ``apply_chat_template`` does it; characters
then say which tokens are response tokens and which piece of the answer each of them is.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import accumulate
from typing import Any, Literal

import datasets

from tosslm.data.fields import REASONING
from tosslm.data.formats import check_format, parse_conversation
from tosslm.data.placing import Placed, locate_content, lost_parts, token_spans
from tosslm.data.template import ChatTemplate, Turn
from tosslm.data.tokenized import Limits, TokenizedRow
from tosslm.data.unwritten import check_tools, unreasoned, unwritten
from tosslm.errors import InputError, RowError

FEATURES = datasets.Features(
    {
        "input_ids": datasets.List(datasets.Value("int32")),
        "response_mask": datasets.List(datasets.Value("bool")),
        "offsets": datasets.List(datasets.List(datasets.Value("int32"))),
    }
)

CHARACTERS_A_TOKEN = 32
"""A row of fewer characters for each token that is kept is encoded as a whole."""
_REACH = 2000
_MARGIN_WORDS = 16
"""With so many words, of so many characters and more, between them, no end of a text bears on a token."""
_FAR = 8000
"""Nor over so many characters, words or not: merges reach a token or two back, as tests/test_limits.py tries."""
_ROWS_PER_CHUNK = 1000  # Arrow is some ten times smaller than lists of Python integers


class RowTokenizer:
    """Turns conversations into tokens; built once per tokenizer.

    The ids are those of ``tokenizer.apply_chat_template(messages,
    chat_template=row_tokenizer.chat_template)``. Response tokens are what an assistant turn must produce
    after the generation prompt: a thinking block where the template writes one, the content, and the
    end-of-turn token; the newline that a template puts after it is not one, nor is the first token of a row.
    A token that holds the prompt's last characters and the answer's first ones (whitespace that a byte-level
    tokenizer merges) is a response token.

    In each turn the offsets do not decrease, and together they cover the content as the template renders it
    (many templates strip it). The pieces of one character that a byte-level tokenizer splits all have that
    character's span. Characters that the tokenizer drops belong to the token after them, at the end of the
    content to the token before.

    Text in a message that reads like a special token (``<|im_end|>``) becomes that special token, as it does
    in ``apply_chat_template``. Such a token has its text's span, and ends no turn: turns are found by
    position, not by looking for headers, so a message that quotes the template's headers does not open one
    either.

    Args:
        tokenizer: a fast Hugging Face tokenizer with a chat template.
        max_length: tokens of a row to keep, from its start.
        turns: ``"all"`` assistant turns are responses, or the ``"last"`` one only.
        limits: of the model that will read the rows.

    Attributes:
        method: how responses are found: ``"generation markers"``, ``"TRL training template"`` or
            ``"prefix differences"``.
        chat_template: the Jinja text in use.
        control_ids: tokens that stand for no text, such as an end of turn.

    Raises:
        InputError: the tokenizer is slow (it cannot say where a token stands in the text), has no chat
            template, or ``max_length`` or ``turns`` is out of range.

    Examples:
        >>> tokenize = RowTokenizer(tokenizer)
        >>> row = tokenize([{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello!"}])
        >>> row.offsets
        [[1, 0, 5], [1, 5, 6], [-1, -1, -1]]
    """

    def __init__(
        self,
        tokenizer: Any,
        *,
        max_length: int = 2048,
        turns: Literal["all", "last"] = "all",
        limits: Limits | None = None,
    ) -> None:
        if max_length < 2:
            raise InputError(f"max_length is {max_length}; set data.max_length to 2 or more")
        if turns not in ("all", "last"):
            raise InputError(f"turns is {turns!r}; set data.turns to all or last")
        if not getattr(tokenizer, "is_fast", False):
            raise InputError(
                f"{type(tokenizer).__name__} is a slow tokenizer and cannot say where a token stands in the "
                "text; load a fast one (AutoTokenizer with a tokenizer.json)"
            )
        self.tokenizer = tokenizer
        self.max_length = max_length
        self.turns = turns
        self.limits = limits or Limits()
        self._template = ChatTemplate(tokenizer)
        self.method = self._template.method
        self.chat_template = self._template.source
        self.control_ids = _control_ids(tokenizer)

    def __call__(self, messages: Sequence[Mapping[str, object]], *, context: Collection[int] = ()) -> TokenizedRow:
        """Tokenise one conversation.

        Args:
            messages: mappings with ``role`` and ``content``, both text; the template also gets an answer's
                reasoning, and ``tools`` of the first message. Other keys are left out.
            context: indices of assistant messages that are no responses, whatever ``turns`` says.

        Returns:
            The row's tokens, at most ``max_length`` of them.

        Raises:
            RowError: the messages are malformed or have no assistant turn, the chat template refuses them, has no
                place for their system message, tools or reasoning, or is not prefix-stable, truncation leaves no
                response token, or the model has no room for the row.
        """
        conversation = _checked(messages)
        trained = self._trained(conversation, context)
        check_tools(self._template, conversation)
        # Of a text that is much longer than what is kept, its head alone is read.
        length = CHARACTERS_A_TOKEN * self.max_length + _REACH
        while True:
            text, turns = self._template.render_turns(conversation, trained, within=length)
            ids, starts, ends = self._encode(text[:length])
            places = [locate_content(text, turn, conversation[turn.message]["content"]) for turn in turns]
            if length >= len(text):
                break
            # A turn whose content is not found ends with its last control token, wherever that is.
            if None not in places and bisect_right(ends, _sure_end(text, length)) > self.max_length:
                break
            length *= 4
        kept = min(len(ids), self.max_length)
        mask = [False] * kept
        offsets: list[list[int]] = []
        lost = unwritten(self._template, conversation, text) + unreasoned(conversation, text, turns)
        # A row's first token has no context to be predicted from, and a token belongs to one turn only.
        free = 1
        for turn, placed in zip(turns, places, strict=True):
            lost += lost_parts(conversation[turn.message]["content"], turn.message, placed)
            first = max(free, bisect_right(ends, turn.start))
            stop = bisect_left(starts, self._response_end(text, turn, placed, ids, starts, ends))
            spans = token_spans(starts, ends, first, stop, turn.message, placed)
            free = max(free, stop)
            stop = max(first, min(stop, kept))
            mask[first:stop] = [True] * (stop - first)
            offsets += spans[: stop - first]
        if not offsets:
            raise _no_response_left(len(ids), self.max_length)
        self.limits.check(ids[:kept])
        return TokenizedRow(ids[:kept], mask, offsets, truncated=len(ids) > kept, lost=lost)

    def _trained(self, conversation: Sequence[Mapping[str, str]], context: Collection[int]) -> list[int]:
        answers = [index for index, message in enumerate(conversation) if message["role"] == "assistant"]
        trained = [index for index in (answers if self.turns == "all" else answers[-1:]) if index not in context]
        if not trained and self.turns == "last":
            raise RowError("the last answer is not trained", "remove the row, or set data.turns: all")
        if not trained:
            raise RowError("no answer of the row is to be trained", "remove the row, or train one of its answers")
        return trained

    def _encode(self, text: str) -> tuple[list[int], list[int], list[int]]:
        """Token ids, and the first character and the end of each, in order."""
        encoded = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        # Bisection needs sorted bounds; a token that a normaliser made of nothing may bear (0, 0).
        starts = list(accumulate((start for start, _ in encoded["offset_mapping"]), max))
        ends = list(accumulate((end for _, end in encoded["offset_mapping"]), max))
        return encoded["input_ids"], starts, ends

    def _response_end(
        self, text: str, turn: Turn, placed: Placed | None, ids: list[int], starts: list[int], ends: list[int]
    ) -> int:
        """Character at which the response ends: after its end-of-turn token, where there is one."""
        visible_end = turn.start + len(text[turn.start : turn.end].rstrip())
        content_end = placed.end if placed else turn.start
        end = max(content_end, visible_end)
        for token in range(bisect_right(ends, content_end), bisect_left(starts, turn.end)):
            if ids[token] in self.control_ids:
                end = ends[token]
                # Unplaced content may hold control tokens of its own; only the last one ends the turn then.
                if placed:
                    break
        return end


def tokenize_rows(
    rows: Iterable[Mapping[str, Any]],
    tokenizer: Any,
    *,
    max_length: int = 2048,
    turns: Literal["all", "last"] = "all",
    format: str = "auto",
    field: str | None = None,
) -> datasets.Dataset:
    """Tokenise rows in any of the known formats.

    What the commands refuse in a row is refused here.

    Args:
        rows: mappings with ``messages``, or in another row format that ``tosslm.data.rows`` reads.
        tokenizer: a fast Hugging Face tokenizer with a chat template.
        max_length: tokens of a row to keep, from its start.
        turns: ``"all"`` assistant turns are responses, or the ``"last"`` one only.
        format: the row format, see ``tosslm.data.rows.parse_record``.
        field: the field of HH text.

    Returns:
        One row each, in order: ``input_ids`` (int32), ``response_mask`` (bool) and ``offsets`` (lists of
        three int32), as in ``TokenizedRow``.

    Raises:
        InputError: the tokenizer cannot be used; see ``RowTokenizer``.
        RowError: a row is bad; the message counts rows from 0.
    """
    check_format(format, field)
    tokenize = RowTokenizer(tokenizer, max_length=max_length, turns=turns)
    chunks: list[datasets.Dataset] = []
    columns: dict[str, list[Any]] = {name: [] for name in FEATURES}
    for number, record in enumerate(rows):
        try:
            parsed = parse_conversation(record, format, field)
            row = tokenize(parsed.messages, context=parsed.context)
            row.check_marked(parsed.unsafe_spans)
        except RowError as error:
            raise RowError(f"row {number}: {error.reason}", error.remedy) from error
        for name, values in columns.items():
            values.append(getattr(row, name))
        if len(columns["input_ids"]) == _ROWS_PER_CHUNK:
            chunks.append(datasets.Dataset.from_dict(columns, features=FEATURES))
            columns = {name: [] for name in FEATURES}
    if columns["input_ids"] or not chunks:
        chunks.append(datasets.Dataset.from_dict(columns, features=FEATURES))
    return datasets.concatenate_datasets(chunks)


def _checked(messages: Sequence[Mapping[str, object]]) -> list[dict[str, Any]]:
    conversation: list[dict[str, Any]] = []
    for index, message in enumerate(messages):
        role, content = message.get("role"), message.get("content")
        if not isinstance(role, str) or not isinstance(content, str):
            raise RowError(f"message {index} has no text role and content", "give both as text")
        try:
            content.encode()
        except UnicodeEncodeError as error:
            raise RowError(
                f"message {index} is not valid Unicode: half a surrogate pair at character {error.start}",
                "mend the file's encoding",
            ) from error
        more = {name: message[name] for name in (*REASONING, "tools") if message.get(name)}
        conversation.append({"role": role, "content": content, **more})
    if not any(message["role"] == "assistant" for message in conversation):
        raise RowError("the conversation has no assistant turn", "add one, or leave the row out")
    return conversation


def _control_ids(tokenizer: Any) -> set[int]:
    # Gemma and others also add runs of spaces and newlines to the vocabulary; those end no turn.
    added = {token_id for token, token_id in tokenizer.get_added_vocab().items() if token.replace("▁", " ").strip()}
    return added | set(tokenizer.all_special_ids)


def _sure_end(text: str, length: int) -> int:
    """Where the tokens of ``text[:length]`` are surely those of the whole text; 0 where nothing is sure.

    Tokenizers cut at white space before they merge characters, and look ahead past one run of it or one group of
    digits; a margin of many words is more than any of them takes. Text without white space has no words, and a margin
    of many characters instead.
    """
    far = max(length - _FAR, 0)
    at = max(length - _REACH, far)
    for _ in range(_MARGIN_WORDS):
        while at > far and (text[at].isspace() or not text[at - 1].isspace()):
            at -= 1
        at = max(at - 1, far)
    return at


def _no_response_left(num_tokens: int, max_length: int) -> RowError:
    if num_tokens > max_length:
        return RowError(
            f"no response token is left after truncation to {max_length} tokens",
            "raise data.max_length or shorten the prompt",
        )
    return RowError("the assistant turns have no tokens", "give them text, or leave the row out")
