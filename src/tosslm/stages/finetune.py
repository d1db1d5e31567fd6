"""Selective fine-tuning: the base learns from the tokens kept, and reads the dropped ones as context."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tosslm.config import Config
from tosslm.findings.proxied import proxy_used
from tosslm.methods.method import Method
from tosslm.runs.layout import DATA, MODEL, SELECTION
from tosslm.stages.adapter import Training, training_step
from tosslm.stages.step import Stage, Step
from tosslm.workbench import Workbench

if TYPE_CHECKING:
    from tosslm.model.base import Base
    from tosslm.training.train import Recipe

_README = """# Fine-tuned adapter

A LoRA trained by tosslm on the response tokens that selection kept.

Load it on **{model}**{on_top}{in_bits}. On any other base, the plain one among them, its answers may be unsafe.
`toss merge` makes one ordinary model folder of all the parts.

| part | file | SHA-256 |
|---|---|---|
{rows}
"""


def _steps(config: Config, method: Method, before: Sequence[Step]) -> list[Step]:
    return [finetune_step(method)] if method.trains else []


STAGE = Stage("finetune", (MODEL,), _steps)


def finetune_step(method: Method) -> Step:
    """The aligned base is fine-tuned on the tokens kept."""
    training = Training(
        lambda config: config.finetune,
        lambda bench: _recipe(bench, method),
        lambda bench: _rows(bench, method),
        lambda bench: {"README.md": _notes(bench, method)},
        lambda bench: _covers(bench, method),
    )
    return training_step(MODEL, "finetune", (DATA, SELECTION), training)


def _recipe(bench: Workbench, method: Method) -> Recipe:
    from tosslm.training.train import Recipe

    settings = bench.config.finetune
    return Recipe(
        settings,
        bench.config.seed,
        normalize=settings.normalize,
        anchor_weight=settings.anchor_weight if settings.anchors else 0.0,
        anchor_normalize=settings.anchor_normalize,
        token_loss=method.token_loss,
        weighed=method.token_weights is not None,
        hold=method.hold,
        hook=method.step(bench) if method.step else None,
        after=method.after,
    )


def _rows(bench: Workbench, method: Method) -> Iterator[dict[str, Any]]:
    """The custom set, its dropped tokens without labels, and what the method mixes in."""
    from tosslm.training.masked import selective_rows

    settings = bench.config.finetune
    weighed = method.token_weights is not None
    yield from selective_rows(
        bench.layout,
        settings.anchor_first if settings.anchors else None,
        weighed=weighed,
        placed=method.token_loss is not None,
        drop_context=bench.config.selection.context == "drop",
    )
    for row in method.extra_rows(bench) if method.extra_rows else ():
        yield row | {"weight": [1.0] * len(row["input_ids"])} if weighed else row


def _covers(bench: Workbench, method: Method) -> list[Any]:
    own: list[Any] = [method.name, method.version] if method.changes_training else []
    if bench.config.finetune.anchors and bench.config.finetune.anchor_first:
        own.append("every answer is anchored")  # version 0.1 anchored the first one of a row
    if bench.config.selection.context == "drop":
        own.append("dropped tokens are not read")
    return [*own, *method.training_covers(bench)]


def _notes(bench: Workbench, method: Method) -> str:
    return model_readme(bench.base, bench.config.model.quantize) + _proxy_note(bench.config, method)


def _proxy_note(config: Config, method: Method) -> str:
    used = proxy_used(config) if method.builds_on != "data" else None
    return f"\n{used}\n" if used else ""


def model_readme(base: Base, quantize: str | None) -> str:
    """What goes beside the adapter: the base and the adapter it was trained on top of, with checksums.

    Args:
        base: the base.
        quantize: what it was quantised to while the adapter was trained; None for nothing.
    """
    from tosslm.model.folders import folder_checksums

    parts: list[tuple[str, str | None, Path]] = [("base", base.config.name, base.folder)]
    on_top = ""
    if base.adapter_folder:
        parts.append(("adapter", base.config.adapter, base.adapter_folder))
        on_top = f" **with {base.config.adapter} merged into it**"
    rows = [
        f"| {part}: {name} | {file} | `{checksum}` |"
        for part, name, folder in parts
        for file, checksum in folder_checksums(folder).items()
    ]
    in_bits = f", its linear layers quantised to {quantize} (4 bits)" if quantize else ""
    return _README.format(model=base.config.name, on_top=on_top, in_bits=in_bits, rows="\n".join(rows))
