"""Selective fine-tuning: the base learns from the tokens kept, and reads the dropped ones as context."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tosslm.errors import TosslmError
from tosslm.files import read_batches
from tosslm.model.base import Base, folder_checksums
from tosslm.stages.select import read_keep
from tosslm.training.labels import anchored_tokens, training_row

_README = """# Fine-tuned adapter

A LoRA trained by tosslm on the response tokens that selection kept.

Load it on **{model}**{on_top}. On any other base, the plain one among them, its answers may be unsafe.
`toss merge` makes one ordinary model folder of all the parts.

| part | file | SHA-256 |
|---|---|---|
{rows}
"""


def selective_rows(data: Path, selection: Path, anchor_first: int | None = None) -> Iterator[dict[str, Any]]:
    """The custom set's training rows, the labels of dropped tokens at -100.

    Args:
        data: the run's data folder.
        selection: folder of the keep mask.
        anchor_first: dropped tokens, and so many at a row's beginning, are anchored to the base; None anchors none.

    Raises:
        TosslmError: the mask does not belong to these rows.
    """
    masks = read_keep(selection)
    for batch in read_batches(data / "custom.parquet", ["row_id", "input_ids", "response_mask"]):
        for row in batch:
            row_id, keep = next(masks, (None, None))
            if row_id != row["row_id"] or keep is None or len(keep) != sum(row["response_mask"]):
                raise TosslmError(f"{selection}: the keep mask does not fit row {row['row_id']}; run `toss select`")
            anchored = None if anchor_first is None else anchored_tokens(keep, anchor_first)
            yield training_row(row["input_ids"], row["response_mask"], keep, anchored)


def model_readme(base: Base) -> str:
    """What goes beside the adapter: the base and the adapter it was trained on top of, with checksums."""
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
    return _README.format(model=base.config.name, on_top=on_top, rows="\n".join(rows))
