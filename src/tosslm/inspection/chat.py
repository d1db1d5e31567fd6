"""Chat rows with weights: which answers train, and, with a tokenizer, which tokens."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from tosslm.data.fields import check_no_details, check_row_trains, is_trained
from tosslm.errors import RowError
from tosslm.inspection.layouts import TokenRow

_EVERY_TOKEN = 1 << 40


def answer_weights(record: Mapping[str, Any]) -> list[bool]:
    """Whether each answer of a row trains: not where its ``weight`` is 0, or ``train`` and its like say no.

    Raises:
        RowError: the messages are no list of objects, a weight says neither yes nor no, or a field says of the whole
            row, or of single characters, what trains.
    """
    check_row_trains(record)
    messages = record.get("messages")
    if not isinstance(messages, list) or not all(isinstance(message, Mapping) for message in messages):
        raise RowError("messages is no list of objects", "write role and content of each message")
    answers = {f"messages[{i}]": one for i, one in enumerate(messages) if one.get("role") == "assistant"}
    for where, message in answers.items():
        check_no_details(message, where)
    return [is_trained(message, where) for where, message in answers.items()]


class ChatRows:
    """Chat rows as tokens.

    Args:
        tokenizer: a fast one with a chat template.

    Raises:
        InputError: it is none.
    """

    def __init__(self, tokenizer: Any) -> None:
        from tosslm.data.tokenize import RowTokenizer

        self._tokenize = RowTokenizer(tokenizer, max_length=_EVERY_TOKEN)

    def row(self, record: Mapping[str, Any], number: int) -> TokenRow:
        """One row as tokens; the mask is 1 at the tokens of answers that train.

        Raises:
            RowError: the row is malformed, or the template refuses it.
        """
        from tosslm.data.formats import parse_conversation

        weights = answer_weights(record)
        messages = record["messages"]
        # A row of which no answer trains is no good row elsewhere; here it is what is looked for.
        if weights and not any(weights):
            messages = [{"role": message.get("role"), "content": message.get("content")} for message in messages]
        parsed = parse_conversation({**record, "messages": messages}, "messages")
        tokenized = self._tokenize(parsed.messages, context=parsed.context)
        mask = np.asarray(tokenized.response_mask, dtype=np.float64) * any(weights)
        return TokenRow(number, np.asarray(tokenized.input_ids, dtype=np.int64), mask=mask)
