"""Folders of models and adapters: where they are, what is in them, and which are hazardous."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

from tosslm.errors import InputError, first_line
from tosslm.files import sha256
from tosslm.model.builtin import builtin_folder

HAZARD_MARK: Literal["HAZARDOUS.md"] = "HAZARDOUS.md"
WEIGHTS = "*.safetensors"
_CODE = ("*.json", "*.jinja", "*.txt", "*.model", "*.tiktoken")
_NOT_THE_MODEL = {"checksums.json", "README.md", "generation_config.json", "trainer_state.json", "measured.json"}


def folder_checksums(folder: Path) -> dict[str, str]:
    """SHA-256 of each file that makes a model or adapter what it is."""
    files = {file for pattern in (WEIGHTS, *_CODE, "*.py") for file in folder.glob(pattern)}
    return {file.name: sha256(file) for file in sorted(files) if file.name not in _NOT_THE_MODEL}


def has_own_code(folder: Path) -> bool:
    """Whether a model names Python code of its own, which ``trust_remote_code`` has run in the library's place."""
    named = []
    for file in ("config.json", "tokenizer_config.json"):
        try:
            settings = json.loads((folder / file).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue  # what is missing or damaged is refused where it is loaded
        named.append(isinstance(settings, dict) and bool(settings.get("auto_map")))
    return any(named)


def answering_checksum(folder: Path) -> list[str]:
    """SHA-256, in a list, of what a model says of how it answers, such as where answers end; empty without that."""
    file = folder / "generation_config.json"
    return [sha256(file)] if file.is_file() else []


def model_checksums(key: str, name: str, revision: str | None) -> dict[str, str]:
    """``folder_checksums`` of a model that a key names, fetched where it is not here: what tells it from another."""
    return folder_checksums(local_folder(key, name, revision, False))


def local_folder(
    key: str, name: str, revision: str | None, trust_remote_code: bool, *, weights: bool = True, fetch: bool = True
) -> Path:
    """The files of a model or adapter, on this machine.

    Args:
        key: who names it, for messages.
        name: a folder, a hub id or a built-in model.
        revision: of a hub id.
        trust_remote_code: whether its own code comes along.
        weights: whether its weights do.
        fetch: whether the hub is asked for what is not here yet.

    Raises:
        InputError: there is no such model, it cannot be fetched, or it has no revisions.
    """
    if revision is not None and (name.startswith("builtin:") or Path(name).is_dir()):
        raise InputError(
            f"{key}: {name} lies here, and a revision ({revision!r}) is of a hub id; leave the revision out, or name "
            "the hub id"
        )
    if name.startswith("builtin:"):
        return builtin_folder(name, key)
    if Path(name).is_dir():
        return Path(name)
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    patterns = [*([WEIGHTS] * weights), *_CODE, HAZARD_MARK, *(["*.py"] if trust_remote_code else [])]
    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=patterns, local_files_only=not fetch))
    except (HFValidationError, HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        reason = first_line(error)
        raise InputError(
            f"{key}: {name!r} is neither a folder here nor a model that the hub gives ({reason}); "
            "check the name, the network, and your access rights"
        ) from None


def adapter_folder(name: str, key: str) -> Path:
    """The folder of an adapter that is merged into a base.

    Args:
        name: a folder or a hub id.
        key: who names it, for messages.

    Raises:
        InputError: there is none, or it is a degraded reference.
    """
    folder = local_folder(key, name, None, False)
    if is_hazardous(folder):
        raise InputError(
            f"{key}: {name} is marked {HAZARD_MARK}: a degraded reference is never merged into a base; "
            "name a safety-tuned adapter instead"
        )
    check_adapter(folder)
    return folder


def is_hazardous(folder: Path) -> bool:
    """Whether a folder is marked as a degraded reference, or lies in one that is, as checkpoints of one do."""
    own = folder.resolve()
    return any((place / HAZARD_MARK).exists() for place in (own, *own.parents))


def check_adapter(folder: Path) -> None:
    """Refuse a folder that is not a PEFT adapter in safetensors.

    Raises:
        InputError: a file is missing; pickled weights are never loaded.
    """
    for file in ("adapter_config.json", "adapter_model.safetensors"):
        if not (folder / file).is_file():
            raise InputError(f"{folder}: no {file} there; name a folder with a PEFT adapter saved as safetensors")
