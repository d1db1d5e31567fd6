"""What leaves for terminal, log, manifest or report: no secret in it, nothing that steers a terminal.

Messages quote what is not ours: names of files and sources, what an endpoint or a template says.
"""

from __future__ import annotations

import json
import os
import re
from urllib.parse import quote

from tosslm.text import mask_hidden

_HIDDEN_KEY = "[key]"
_SHORTEST_KEY = 8  # a shorter one is a word such as "none", which stands in other texts too
_LONGEST = 4000
_USERINFO = re.compile(r"(://)[^\s/?#]*@")
_WITH_PASSWORD = re.compile(r"\s*(?:https?://[^\s/?#]*@|[\w.+-]+://[^\s/?#]*:[^\s/?#]*@)\S*\s*")
_SECRET_FIELD = (
    r"[?&;#](?:[\w.-]*(?:key|keyid|accessid|token|secret|passwd|password|pwd|signature|credential|jwt)|sig|auth)="
)
_SIGNED = re.compile(rf"\s*[\w.+-]+://\S*{_SECRET_FIELD}\S+\s*", re.IGNORECASE)
_SIGNATURE = re.compile(rf"({_SECRET_FIELD})[^\s&#'\"<>]+", re.IGNORECASE)
_HALF = re.compile("[\ud800-\udfff]")
_key_variables = {"OPENAI_API_KEY", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "WANDB_API_KEY"}


def holds_key(variable: str) -> None:
    """Remember that an environment variable holds a key; its value is looked up each time and kept nowhere."""
    _key_variables.add(variable)


def has_credentials(text: str) -> bool:
    """Whether a text is a URL with a password or token before its host, or signed; ``sftp://me@host/x`` is not."""
    links = text.split("::")  # of a chain of fsspec
    return any(form.fullmatch(link) is not None for link in links for form in (_WITH_PASSWORD, _SIGNED))


def without_secrets(text: str) -> str:
    """The text without the values of key variables, however they are quoted, and without secrets in URLs.

    Example:
        >>> without_secrets("no reply from https://me:word@host/v1")
        'no reply from https://***@host/v1'
    """
    for variable in sorted(_key_variables):
        value = os.environ.get(variable, "").strip()
        for form in (value, json.dumps(value)[1:-1], quote(value, safe="")):
            if len(form) >= _SHORTEST_KEY:
                text = text.replace(form, _HIDDEN_KEY)
    return _SIGNATURE.sub(r"\1***", _USERINFO.sub(r"\1***@", text))


def outward(text: object) -> str:
    r"""One line of text that may be shown or kept: without secrets, hidden characters, or half of an emoji.

    Example:
        >>> outward("a\x1b[31mb\nc")
        'a�[31mb c'
    """
    line = " ".join(without_secrets(str(text)).splitlines())
    shown = line if len(line) <= _LONGEST else f"{line[:_LONGEST]} ..."
    return whole_text(mask_hidden(shown))


def whole_text(text: str) -> str:
    """The text with � for each half of a surrogate pair, which no file can hold."""
    return _HALF.sub("\ufffd", text)
