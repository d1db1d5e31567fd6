"""The proxy: a smaller model in the base's place where references are trained and rows are scored."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from tosslm.config import Config, ModelConfig
from tosslm.data.proxied import Turns, proxy_row
from tosslm.data.template import ChatTemplate
from tosslm.data.tokenize import RowTokenizer
from tosslm.data.tokenized import Limits
from tosslm.errors import InputError, RowError
from tosslm.model.base import Base, Keys, open_base

PROXY_KEYS = Keys("references.model", "references.adapter")
_ANY_LENGTH = 2**31
"""A proxy reads as much of a row's text as the base does, however many tokens that takes."""


@dataclass(slots=True)
class ProxyCounts:
    """What a set is to a proxy; the names are those of the manifest.

    Attributes:
        rows: rows of the set.
        tokens: the proxy's tokens in them.
        response_tokens: its response tokens.
        longest: tokens of its longest row.
        same_rows: rows whose tokens are the base's own.
        unscored: response tokens of the base of which the proxy says nothing; their losses are 0.
    """

    rows: int = 0
    tokens: int = 0
    response_tokens: int = 0
    longest: int = 0
    same_rows: int = 0
    unscored: int = 0


@dataclass(frozen=True, slots=True)
class Proxy:
    """A proxy, opened.

    Attributes:
        base: its weights and tokenizer; loaded on first use, as those of a base.
        own_template: whether it has a chat template of its own; else it reads rows in the base's.
    """

    base: Base
    own_template: bool

    @property
    def template_told(self) -> str:
        """Whose chat template it reads rows in."""
        return "its own" if self.own_template else "the base's"

    def rows(self, rows: Iterator[dict[str, Any]], turns: Turns, counts: ProxyCounts) -> Iterator[dict[str, Any]]:
        """The records of ``PROXY_SCHEMA`` of a set, counted.

        Args:
            rows: records of ``DATA_SCHEMA``.
            turns: ``data.turns`` of the run.
            counts: what is counted on the way.

        Raises:
            InputError: the proxy cannot read a row (names it).
        """
        tokenize = RowTokenizer(self.base.tokenizer, max_length=_ANY_LENGTH, limits=Limits())
        for row in rows:
            try:
                found = proxy_row(row, tokenize, self.base.limits, turns)
            except RowError as error:
                raise InputError(
                    f"references.model: {row['origin']}: the proxy cannot read the row: {error.reason}; "
                    f"{error.remedy}, or choose another proxy"
                ) from error
            counts.rows += 1
            counts.tokens += len(found.record["input_ids"])
            counts.response_tokens += len(found.record["offsets"])
            counts.longest = max(counts.longest, len(found.record["input_ids"]))
            counts.same_rows += found.same
            counts.unscored += found.unscored
            yield found.record


def open_proxy(config: Config, base: Base) -> Proxy | None:
    """The proxy that a config names; None where the base itself is the references' model.

    Dtype and device are the base's. Code that comes with a proxy is never run.

    Args:
        config: the config.
        base: whose chat template a proxy without one takes over.

    Raises:
        InputError: as for ``open_base``, or neither model has a chat template.
    """
    references = config.references
    if not references.model:
        return None
    settings = ModelConfig.model_validate(
        {
            "name": references.model,
            "adapter": references.adapter,
            "revision": references.revision,
            "dtype": config.model.dtype,
            "device": config.model.device,
        }
    )
    proxy = open_base(settings, PROXY_KEYS)
    own = bool(proxy.tokenizer.chat_template)
    if not own:
        proxy.tokenizer.chat_template = _borrowed(proxy, base)
    try:
        ChatTemplate(proxy.tokenizer)
    except InputError as error:
        raise InputError(f"references.model: {references.model}: {error}") from error
    return Proxy(proxy, own)


def _borrowed(proxy: Base, base: Base) -> str:
    """The base's template, behind the token that the proxy was taught every text begins with."""
    template = ChatTemplate(base.tokenizer).source
    begins = proxy.tokenizer.bos_token_id
    if begins is None or proxy.tokenizer("").input_ids[:1] != [begins] or "bos_token" in template:
        return template
    return "{{ bos_token }}" + template
