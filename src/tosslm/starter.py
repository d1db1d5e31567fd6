"""The commented starter config of `toss init`, written from the config's own fields so that it is never stale."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Sequence
from typing import Any, get_args

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from tosslm.config import Config

_EXAMPLES = {
    "run_dir": "runs/my-run",
    "data.custom.path": "data/custom.jsonl",
    "data.harmful.path": "data/harmful.jsonl",
    "data.utility.path": "data/utility.jsonl",
}


CHANGED = (
    "run_dir",
    "model.name",
    "data.custom.path",
    "data.harmful.path",
    "data.utility.path",
    "references.learning_rate",
    "selection.discard_fraction",
    "selection.evidence",
    "finetune.dropped",
    "finetune.learning_rate",
)
"""The keys that people change."""


def starter_config(*, full: bool = False) -> str:
    """A YAML config of defaults, each key under a comment that explains it.

    Args:
        full: every key, not only those that people change.
    """
    head = "# A tosslm config. Every key but the paths under data may be left out.\n"
    if not full:
        head += "# These are the keys that people change; `toss init --full` writes all of them.\n"
    return head + "\n".join(_section(Config, "", 0, None if full else CHANGED, set())) + "\n"


def _section(
    section: type[BaseModel], prefix: str, depth: int, wanted: Sequence[str] | None, told: set[type[BaseModel]]
) -> list[str]:
    """The lines of a section's keys; ``told`` are the sections whose keys stand above already."""
    told.add(section)
    lines: list[str] = []
    for name, field in section.model_fields.items():
        if isinstance(field.json_schema_extra, dict) and field.json_schema_extra.get("hidden"):
            continue
        name = field.alias or name
        key = f"{prefix}{name}"
        if wanted is not None and not any(one == key or one.startswith(f"{key}.") for one in wanted):
            continue
        pad = "  " * depth
        lines += [f"{pad}# {line}" for line in textwrap.wrap(field.description or "", 96 - len(pad))]
        annotation = field.annotation
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            lines += [f"{pad}{name}:", *_section(annotation, f"{key}.", depth + 1, wanted, told)]
        else:
            lines.append(f"{pad}{name}: {_value(key, field)}")
            lines += [f"{pad}# {line}".rstrip() for line in _given(name, field, key, told)]
        if depth == 0:
            lines.append("")
    return lines


def _given(name: str, field: FieldInfo, key: str, told: set[type[BaseModel]]) -> list[str]:
    """What a section that is null by default holds once it is given, where no other of its kind has told it."""
    for section in get_args(field.annotation):
        if isinstance(section, type) and issubclass(section, BaseModel) and section not in told:
            return [f"{name}:", *_section(section, f"{key}.", 1, None, told)]
    return []


def _value(key: str, field: FieldInfo) -> str:
    if field.is_required() and key not in _EXAMPLES:
        return "..."
    default: Any = _EXAMPLES.get(key, field.get_default(call_default_factory=True))
    if isinstance(default, float):
        return f"{default:.1e}" if 0 < default < 1e-3 else repr(default)
    return default if isinstance(default, str) else json.dumps(default)
