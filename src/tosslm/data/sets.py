"""A set of rows, read and tokenised one by one, and what is counted on the way."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tosslm.config import SourceConfig
from tosslm.data.records import MAX_ROW_BYTES
from tosslm.data.rows import BadRow, Row, base_id, file_checksums, source_rows
from tosslm.data.tokenized import TokenizedRow
from tosslm.errors import RowError

if TYPE_CHECKING:
    from tosslm.data.tokenize import RowTokenizer

Known = Callable[[int, Row], TokenizedRow | None]
"""The tokens of a good row, of this number among a set's good rows from 0, where they are known already.

Asked in order, of rows that are taken. Raises ``RowError`` where the row is known to be refused.
"""


@dataclass(slots=True)
class SetCounts:
    """What a set holds.

    Attributes:
        rows: rows taken.
        tokens: tokens in them.
        response_tokens: response tokens in them.
        longest: tokens of the longest row.
        truncated: rows cut to ``max_length``.
        rewritten: rows with a turn that the chat template does not write as it stands.
        first_rewritten: where the first of these stands, ``file:line``.
        repeated: rows whose content stood in the set before.
        marked: rows whose unsafe text is marked.
        bad: rows left out.
        sources: rows of each source.
    """

    rows: int = 0
    tokens: int = 0
    response_tokens: int = 0
    longest: int = 0
    truncated: int = 0
    rewritten: int = 0
    first_rewritten: str | None = None
    repeated: int = 0
    marked: int = 0
    bad: int = 0
    sources: dict[str, int] = field(default_factory=dict)


def prepared_rows(
    source: SourceConfig,
    tokenizer: RowTokenizer,
    counts: SetCounts,
    *,
    max_row_bytes: int = MAX_ROW_BYTES,
    takes: Callable[[str], bool] = lambda _: True,
    known: Known = lambda _, row: None,
    key: str = "",
) -> Iterator[dict[str, Any] | BadRow]:
    """Read and tokenise one set, row by row, counting as it goes.

    Args:
        source: the set.
        tokenizer: makes tokens of rows.
        counts: what is counted.
        max_row_bytes: a row of more is a bad one.
        takes: which rows are taken, by the id of their content; the others are passed over.
        known: tokens that need not be made again.
        key: of the set in the config, for messages.

    Yields:
        A record of ``DATA_SCHEMA``, or the reason why a row cannot be used.
    """
    number = -1
    for row in source_rows(source, max_row_bytes, key=key):
        if isinstance(row, BadRow):
            counts.bad += 1
            yield row
            continue
        number += 1
        if not takes(base_id(row.row_id)):
            continue
        try:
            tokens = known(number, row) or tokenized(row, tokenizer)
        except RowError as error:
            counts.bad += 1
            yield BadRow(row.origin, error.reason, error.remedy)
            continue
        counts.rows += 1
        counts.tokens += len(tokens.input_ids)
        counts.response_tokens += sum(tokens.response_mask)
        counts.longest = max(counts.longest, len(tokens.input_ids))
        counts.truncated += tokens.truncated
        if tokens.lost:
            counts.rewritten += 1
            counts.first_rewritten = counts.first_rewritten or row.origin
        counts.repeated += "-" in row.row_id
        counts.marked += row.unsafe_spans is not None
        counts.sources[row.source] = counts.sources.get(row.source, 0) + 1
        yield _record(row, tokens)


def tokenized(row: Row, tokenizer: RowTokenizer) -> TokenizedRow:
    """The tokens of a good row.

    Raises:
        RowError: it has none that can be trained, or its marks stand on text that the model never sees.
    """
    tokens = tokenizer(row.messages, context=row.context)
    tokens.check_marked(row.unsafe_spans)
    return tokens


def _record(row: Row, tokens: TokenizedRow) -> dict[str, Any]:
    return {
        "row_id": row.row_id,
        "origin": row.origin,
        "source": row.source,
        "messages": json.dumps(row.messages, ensure_ascii=False),
        "input_ids": tokens.input_ids,
        "response_mask": tokens.response_mask,
        "offsets": tokens.offsets,
        "unsafe_spans": row.unsafe_spans,
    }


def source_checksums(source: SourceConfig) -> list[str]:
    """SHA-256 of each file of a set, in order, as ``file_checksums`` has them."""
    return file_checksums(source.path)
