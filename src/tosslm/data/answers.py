"""The response tokens of a row on the axis of its answers, by its own tokenizer and by another one."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from tosslm.characters import Axis, Tokens, answers_of, make_axis, place_tokens
from tosslm.data.tokenize import RowTokenizer
from tosslm.data.tokenized import TokenizedRow


@dataclass(frozen=True, slots=True)
class PlacedRow:
    """A stored row, its response tokens on the axis of its trained answers.

    Attributes:
        messages: the conversation.
        trained: message indices of the answers that have response tokens.
        axis: of these answers.
        tokens: the row's response tokens.
    """

    messages: Sequence[Mapping[str, Any]]
    trained: Sequence[int]
    axis: Axis
    tokens: Tokens

    def again(self, tokenize: RowTokenizer) -> TokenizedRow:
        """The row by another tokenizer; answers that are not trained here are not trained there either.

        Raises:
            RowError: the other template refuses the row, or the other model has no room for it.
        """
        answers = {index for index, message in enumerate(self.messages) if message["role"] == "assistant"}
        return tokenize(self.messages, context=answers - set(self.trained))

    def place(self, offsets: Any, response_mask: Any, input_ids: Any) -> Tokens:
        """Response tokens of the same row by another tokenizer, on this axis."""
        offsets, mask, ids = _arrays(offsets, response_mask, input_ids)
        return place_tokens(self.axis, answers_of(mask, offsets[:, 0], self.trained), offsets, ids)


def place_row(row: Mapping[str, Any], turns: Literal["all", "last"]) -> PlacedRow:
    """A stored row on the axis of its trained answers.

    Args:
        row: ``messages`` (JSON), ``input_ids``, ``response_mask`` and ``offsets`` of ``DATA_SCHEMA``.
        turns: ``data.turns`` of the run.
    """
    messages = json.loads(row["messages"])
    answers = [index for index, message in enumerate(messages) if message["role"] == "assistant"]
    may = answers if turns == "all" else answers[-1:]
    offsets, mask, ids = _arrays(row["offsets"], row["response_mask"], row["input_ids"])
    answer = answers_of(mask, offsets[:, 0], may)
    said = set(answer.tolist())
    trained = [index for index in may if index in said]
    axis = make_axis({index: messages[index]["content"] for index in trained})
    return PlacedRow(messages, trained, axis, place_tokens(axis, answer, offsets, ids))


def _arrays(offsets: Any, response_mask: Any, input_ids: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Spans, int64 ``[n, 3]``; the mask, bool ``[T]``; ids of response tokens, int64 ``[n]``."""
    mask = np.asarray(response_mask, dtype=bool)
    return (
        np.asarray(offsets, dtype=np.int64).reshape(-1, 3),
        mask,
        np.asarray(input_ids, dtype=np.int64)[mask],
    )
