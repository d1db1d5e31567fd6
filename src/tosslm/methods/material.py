"""What baselines look at, read from a run folder; and their masks, written as the selection stage writes them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from tosslm.config import Config
from tosslm.files import read_batches, write_json, write_parquet
from tosslm.methods.guard import guard_marks
from tosslm.methods.method import Baseline, Material
from tosslm.stages.references import split_rows
from tosslm.stages.score import part_files
from tosslm.stages.select import KEEP, KEEP_SCHEMA


def load_material(
    path: Path, config: Config, *, with_scores: bool, with_guard: bool = False, row_weights: np.ndarray | None = None
) -> Material:
    """Read what a baseline may look at.

    Args:
        path: the run folder.
        config: the run's config.
        with_scores: read both references' losses of round 0 too.
        with_guard: ask the guard of ``compare.guard``.
        row_weights: float64 ``[R]``, for a method that asks a selector.
    """
    rows = [
        row
        for batch in read_batches(path / "data/custom.parquet", ["source", "messages", "response_mask"])
        for row in batch
    ]
    masks = [np.asarray(row["response_mask"], dtype=bool) for row in rows]
    target = split_rows(
        path / "data", "utility", config.references.holdout, want_held_out=False, columns=("row_id", "messages")
    )
    parts = part_files(path / "scores/round-0") if with_scores else []
    return Material(
        lengths=np.array([mask.sum() for mask in masks], dtype=np.int64),
        positions=np.concatenate([answer_positions(mask) for mask in masks]),
        sources=[row["source"] for row in rows],
        texts=[_text(row["messages"]) for row in rows],
        target_texts=[_text(row["messages"]) for row in target],
        loss_degraded=_losses(parts, "loss_degraded"),
        loss_utility=_losses(parts, "loss_utility"),
        unsafe=guard_marks(path, config) if with_guard else np.zeros(0, dtype=bool),
        row_weights=np.zeros(0) if row_weights is None else row_weights,
        discard_fraction=config.selection.discard_fraction,
        harmful_sources=frozenset(config.compare.harmful_sources),
        seed=config.seed,
    )


def answer_positions(response_mask: np.ndarray) -> np.ndarray:
    """How many response tokens of the same answer stand before each, int64 ``[n]``, of a row's mask, bool ``[T]``.

    Example:
        >>> answer_positions(np.array([False, True, True, False, True])).tolist()
        [0, 1, 0]
    """
    places = np.flatnonzero(response_mask)
    starts = np.flatnonzero(np.diff(places, prepend=-2) > 1)
    lengths = np.diff(starts, append=len(places))
    return np.arange(len(places)) - np.repeat(starts, lengths)


def write_mask(
    baseline: Baseline, keep: np.ndarray, material: Material, *, data: Path, folder: Path, step_fingerprint: str
) -> dict[str, Any]:
    """Write a baseline's ``keep.parquet`` and ``selection.json``.

    Returns:
        Facts for the manifest: those of ``selection.json``.
    """
    row_ids = [row["row_id"] for batch in read_batches(data / "custom.parquet", ["row_id"]) for row in batch]
    rows = np.split(keep, np.cumsum(material.lengths)[:-1])
    write_parquet(folder / KEEP, {"row_id": row_ids, "keep": pa.array(rows)}, KEEP_SCHEMA, step_fingerprint)
    sources: dict[str, dict[str, int]] = {}
    for source, row in zip(material.sources, rows, strict=True):
        counts = sources.setdefault(source, {"rows": 0, "tokens": 0, "discarded": 0})
        counts["rows"] += 1
        counts["tokens"] += len(row)
        counts["discarded"] += int((~row).sum())
    facts = {
        "method": baseline.name,
        "discard_fraction": material.discard_fraction,
        "threshold": None,
        "tokens": len(keep),
        "discarded": int((~keep).sum()),
        "sources": sources,
    }
    write_json(folder / "selection.json", facts)
    return facts


def _text(messages: str) -> str:
    return "\n".join(message["content"] for message in json.loads(messages))


def _losses(parts: list[Path], column: str) -> np.ndarray:
    rows = [row[column] for part in parts for batch in read_batches(part, [column]) for row in batch]
    return np.concatenate([np.asarray(row, dtype=np.float32) for row in rows]) if rows else np.zeros(0, np.float32)
