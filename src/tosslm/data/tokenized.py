"""A conversation as tokens, and what a model has room for."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from tosslm.errors import RowError


@dataclass(frozen=True, slots=True)
class TokenizedRow:
    """One conversation as tokens.

    Args:
        input_ids: ``[num_tokens]`` token ids.
        response_mask: ``[num_tokens]`` True where the token is a response token.
        offsets: ``[num_response_tokens, 3]`` message index, start and end in code points of that message's
            content; ``[-1, -1, -1]`` where a token has no text of it (an end of turn, a thinking block that
            the template writes).
        truncated: whether tokens were cut off at the end.
        lost: ``[message index, start, end]`` of each part of a response's or a prompt's content, white space
            around it aside, that the chat template does not write as it stands.
    """

    input_ids: list[int]
    response_mask: list[bool]
    offsets: list[list[int]]
    truncated: bool
    lost: list[list[int]] = field(default_factory=list)

    def check_marked(self, unsafe_spans: Iterable[Sequence[int]] | None) -> None:
        """Refuse marks on text that the model never gets to see.

        Raises:
            RowError: a span has text of ``lost`` in it.
        """
        for index, start, end in unsafe_spans or ():
            if any(message == index and start < high and low < end for message, low, high in self.lost):
                raise RowError(
                    f"unsafe_spans mark {start} to {end} of message {index}, where the chat template drops or "
                    "rewrites text",
                    "write the answer as the template does, or move the mark off that text",
                )


@dataclass(frozen=True, slots=True)
class Limits:
    """What a model has room for; None is no limit that is known.

    Attributes:
        vocabulary: token ids it has an embedding for, from 0.
        positions: tokens of the longest row.
    """

    vocabulary: int | None = None
    positions: int | None = None

    def check(self, ids: Sequence[int]) -> None:
        """Refuse a row that has no room.

        Raises:
            RowError: it is too long, or a token id is beyond the vocabulary.
        """
        if self.positions is not None and len(ids) > self.positions:
            raise RowError(
                f"{len(ids)} tokens, and the model has {self.positions} positions",
                f"set data.max_length to {self.positions} or less",
            )
        if self.vocabulary is not None and ids and max(ids) >= self.vocabulary:
            raise RowError(
                f"the token id {max(ids)} is beyond the model's vocabulary of {self.vocabulary}",
                "use the model's own tokenizer, or resize the model's embeddings to it and save it",
            )
