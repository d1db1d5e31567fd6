"""The selection stage: from the scores on disk to the keep mask on disk, one part in memory at a time."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from tosslm.config import SelectionConfig
from tosslm.errors import TosslmError
from tosslm.files import parquet_writer, read_batches, write_json
from tosslm.selection.cut import Cut, apply_cut, find_cut, select_in_rows
from tosslm.stages.ranking import Parts, ranked_values

KEEP = "keep.parquet"
KEEP_SCHEMA = pa.schema([("row_id", pa.string()), ("keep", pa.list_(pa.bool_()))])


def write_keep_mask(
    config: SelectionConfig, *, scores: Path, data: Path, folder: Path, seed: int, step_fingerprint: str
) -> dict[str, Any]:
    """Write ``keep.parquet`` and ``selection.json``, and what was ranked where that is not the scores themselves.

    Args:
        config: the discard fraction, its scope, and what is ranked.
        scores: folder of the last round's parts.
        data: the run's data folder.
        folder: where the mask goes.
        seed: of what is drawn at random while evidence is learnt.
        step_fingerprint: what the mask is marked with.

    Returns:
        Facts for the manifest: those of ``selection.json``, and how many tokens' choice differs from the mask
        that stood there before.

    Raises:
        TosslmError: a score is not finite (names row and position), or evidence cannot be learnt.
    """
    values = ranked_values(config, scores=scores, folder=folder, seed=seed, step_fingerprint=step_fingerprint)
    cut = None
    if config.scope == "global":
        cut = find_cut(lambda: (part[2] for part in values()), config.discard_fraction)
    sources = _sources(data)
    # A mask that cannot be read is being made again, so there is nothing to compare with.
    previous = read_keep(folder) if _is_readable(folder / KEEP) else None
    per_source: dict[str, dict[str, int]] = {}
    lowest, changed = np.inf, 0 if previous else None
    with parquet_writer(folder / KEEP, KEEP_SCHEMA, step_fingerprint) as writer:
        for row_ids, lengths, ranked, keep in _masked_parts(config, values(), cut):
            rows = np.split(keep, np.cumsum(lengths)[:-1])
            columns = {"row_id": row_ids, "keep": rows}
            writer.write_table(pa.table(columns, schema=writer.schema))
            lowest = min(lowest, ranked[~keep].min(initial=np.inf))
            for row_id, row_keep in zip(row_ids, rows, strict=True):
                _count(per_source, next(sources), row_keep)
                if previous is not None and changed is not None:
                    changed = _difference(changed, next(previous, None), row_id, row_keep)
    facts = {
        "discard_fraction": config.discard_fraction,
        "scope": config.scope,
        "evidence": config.evidence,
        **({"window": config.window} if config.evidence == "window" else {}),
        "threshold": float(lowest) if np.isfinite(lowest) else None,
        "tokens": sum(counts["tokens"] for counts in per_source.values()),
        "discarded": sum(counts["discarded"] for counts in per_source.values()),
        "sources": per_source,
    }
    write_json(folder / "selection.json", facts)
    return facts | ({} if changed is None else {"changed_from_previous": changed})


def _is_readable(path: Path) -> bool:
    try:
        return path.exists() and sum(len(batch) for batch in read_batches(path)) > 0
    except TosslmError:
        return False


def read_keep(folder: Path) -> Iterator[tuple[str, np.ndarray]]:
    """Stream a keep mask: row id and bool ``[N]``, one value a response token."""
    for batch in read_batches(folder / KEEP):
        for row in batch:
            yield row["row_id"], np.asarray(row["keep"], dtype=bool)


def _masked_parts(
    config: SelectionConfig, parts: Parts, cut: Cut | None
) -> Iterator[tuple[list[str], np.ndarray, np.ndarray, np.ndarray]]:
    ties = 0
    for row_ids, lengths, part in parts:
        if cut is not None:
            keep, ties = apply_cut(part, cut, ties)
        else:
            rows = np.split(part, np.cumsum(lengths)[:-1])
            keep = np.concatenate(select_in_rows(rows, config.discard_fraction))
        yield row_ids, lengths, part, keep


def _sources(data: Path) -> Iterator[str]:
    for batch in read_batches(data / "custom.parquet", ["source"]):
        yield from (row["source"] for row in batch)


def _count(per_source: dict[str, dict[str, int]], source: str, keep: np.ndarray) -> None:
    counts = per_source.setdefault(source, {"rows": 0, "tokens": 0, "discarded": 0})
    counts["rows"] += 1
    counts["tokens"] += len(keep)
    counts["discarded"] += int((~keep).sum())


def _difference(changed: int, previous: tuple[str, np.ndarray] | None, row_id: str, keep: np.ndarray) -> int | None:
    if previous is None or previous[0] != row_id or len(previous[1]) != len(keep):
        return None  # another custom set: there is nothing to compare with
    return changed + int((previous[1] != keep).sum())
