"""A tokenizer by itself, for work that needs no weights: where it comes from, and checksums of what it is."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tosslm.config import ModelConfig
from tosslm.data.tokenized import Limits
from tosslm.errors import InputError
from tosslm.files import sha256
from tosslm.model.base import model_limits
from tosslm.model.folders import HAZARD_MARK, is_hazardous, local_folder

_FILES = (
    "tokenizer*.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template*",
    "vocab.*",
    "merges.txt",
)
_MORE = ("*.model", "*.tiktoken", "additional_chat_templates/*")


@dataclass(frozen=True, slots=True)
class OpenedTokenizer:
    """A tokenizer, loaded.

    Attributes:
        name: as it was asked for.
        tokenizer: a Hugging Face tokenizer.
        limits: of its model, where the folder has a config.json.
        files: SHA-256 of each file that makes it what it is.
    """

    name: str
    tokenizer: Any
    limits: Limits
    files: dict[str, str]


def open_tokenizer(name: str, key: str) -> OpenedTokenizer:
    """Load a tokenizer; of a hub id nothing but its small files is fetched, and no code of its own is run.

    Args:
        name: a folder, a hub id or a built-in model.
        key: who names it, for messages.

    Raises:
        InputError: it cannot be found or loaded, or the folder is a degraded reference.
    """
    from transformers import AutoTokenizer

    folder = local_folder(key, name, None, False, weights=False)
    if is_hazardous(folder):
        raise InputError(f"{key}: {name} is marked {HAZARD_MARK}: a degraded reference; name its base's tokenizer")
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:  # the tokenizers' own are plain Exceptions
        raise InputError(
            f"{key}: {name}: its tokenizer cannot be loaded ({type(error).__name__}: {error}); name a folder with "
            "tokenizer.json and tokenizer_config.json; one that needs code of its own is not run"
        ) from error
    config = ModelConfig(name=name)
    limits = model_limits(config, folder, key) if (folder / "config.json").is_file() else Limits()
    return OpenedTokenizer(name, tokenizer, limits, tokenizer_checksums(folder))


def tokenizer_checksums(folder: Path) -> dict[str, str]:
    """SHA-256 of each file of a tokenizer, by its name in the folder."""
    files = {file for pattern in (*_FILES, *_MORE) for file in folder.glob(pattern) if file.is_file()}
    return {file.relative_to(folder).as_posix(): sha256(file) for file in sorted(files)}


def known_checksums(config: ModelConfig) -> dict[str, str] | None:
    """Those of a config's model as it is now; None where it is not on this machine, and nothing is fetched for it."""
    try:
        folder = local_folder("model.name", config.name, config.revision, False, weights=False, fetch=False)
    except InputError:
        return None
    return tokenizer_checksums(folder)
