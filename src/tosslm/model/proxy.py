"""The proxy: a smaller model in the base's place where references are trained and rows are scored."""

from __future__ import annotations

from dataclasses import dataclass

from tosslm.config import Config, ModelConfig
from tosslm.data.template import ChatTemplate
from tosslm.data.tokenize import Limits, RowTokenizer
from tosslm.errors import InputError
from tosslm.model.base import Base, Keys, open_base

PROXY_KEYS = Keys("references.model", "references.adapter")
_ANY_LENGTH = 2**31
"""A proxy reads as much of a row's text as the base does, however many tokens that takes."""


@dataclass(frozen=True, slots=True)
class Proxy:
    """A proxy, opened.

    Attributes:
        base: its weights and tokenizer; loaded on first use, as those of a base.
        own_template: whether it has a chat template of its own; else it reads rows in the base's.
    """

    base: Base
    own_template: bool

    def tokenizer(self) -> RowTokenizer:
        """Makes the proxy's tokens of rows; its limits are left to who cuts the rows."""
        return RowTokenizer(self.base.tokenizer, max_length=_ANY_LENGTH, limits=Limits())


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
