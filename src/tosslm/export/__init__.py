"""Masked rows for other trainers: the kinds of export, and whom each serves."""

from __future__ import annotations

from tosslm.errors import InputError
from tosslm.export import axolotl_text, llamafactory, megatron, olmo, openai, parquet, swift, tinker
from tosslm.export.kind import ExportKind

KINDS: tuple[ExportKind, ...] = (
    parquet.KIND,
    megatron.KIND,
    openai.KIND,
    swift.KIND,
    tinker.KIND,
    olmo.KIND,
    axolotl_text.KIND,
    llamafactory.KIND,
)


def described() -> list[str]:
    """A line for each kind."""
    return [f"{kind.key} (or {', '.join(kind.serves)}): {kind.summary}" for kind in KINDS]


def named(name: str) -> tuple[ExportKind, str | None]:
    """The kind of a name, and the consumer where the name is one's.

    Raises:
        InputError: there is none; the message lists the kinds.
    """
    for kind in KINDS:
        if name == kind.key:
            return kind, None
    for kind in KINDS:
        if name in kind.serves:
            return kind, name
    raise InputError(f"--to {name}: no such kind of export; choose one of: {'; '.join(described())}")
