"""The commented starter config of `toss init`, written from the config's own fields so that it is never stale."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Sequence
from typing import Any

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
    return head + "\n".join(_section(Config, "", 0, None if full else CHANGED)) + "\n"


def _section(section: type[BaseModel], prefix: str, depth: int, wanted: Sequence[str] | None) -> list[str]:
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
            lines += [f"{pad}{name}:", *_section(annotation, f"{key}.", depth + 1, wanted)]
        else:
            lines.append(f"{pad}{name}: {_value(key, field)}")
        if depth == 0:
            lines.append("")
    return lines


def _value(key: str, field: FieldInfo) -> str:
    default: Any = _EXAMPLES.get(key, field.get_default(call_default_factory=True))
    if isinstance(default, float):
        return f"{default:.1e}" if 0 < default < 1e-3 else repr(default)
    return default if isinstance(default, str) else json.dumps(default)
