"""The scoring stage: both references' losses of every response token, written part by part."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tosslm.config import ScoringConfig
from tosslm.files import is_whole, read_batches, write_parquet
from tosslm.model.base import Base, attached_adapters
from tosslm.model.losses import response_losses
from tosslm.progress import Reporter, Task
from tosslm.stages.references import split_rows
from tosslm.tracking import Log

SCORE_SCHEMA = pa.schema(
    [
        ("row_id", pa.string()),
        ("position", pa.list_(pa.int32())),
        ("loss_degraded", pa.list_(pa.float32())),
        ("loss_utility", pa.list_(pa.float32())),
    ]
)
HELDOUT_SCHEMA = SCORE_SCHEMA.append(pa.field("set", pa.string()))
HELDOUT = "heldout.parquet"


def part_files(folder: Path) -> list[Path]:
    """The parts of a round's scores, in the order of the custom set."""
    return sorted(folder.glob("part-*.parquet"), key=lambda path: int(path.stem.removeprefix("part-")))


def read_scores(folder: Path) -> Iterator[tuple[list[str], np.ndarray, np.ndarray]]:
    """Stream a round's scores, one part at a time.

    Yields:
        The part's row ids; the response tokens of each row, int64 ``[R]``; and the scores
        ``loss_utility - loss_degraded`` of all its tokens, float32 ``[N]``, rows one after the other.
    """
    for path in part_files(folder):
        with pq.ParquetFile(path) as file:
            table = file.read(columns=["row_id", "loss_degraded", "loss_utility"])
        lengths = pc.list_value_length(table["loss_utility"]).to_numpy()
        scores = _flat(table["loss_utility"]) - _flat(table["loss_degraded"])
        yield table["row_id"].to_pylist(), lengths.astype(np.int64), scores


def _flat(column: pa.ChunkedArray) -> np.ndarray:
    return pc.list_flatten(column).to_numpy()


def score_rows(
    base: Base,
    config: ScoringConfig,
    *,
    data: Path,
    holdout: float,
    utility: Path,
    degraded: Path,
    folder: Path,
    known_utility: Path | None,
    step_fingerprint: str,
    reporter: Reporter,
    log: Log,
) -> dict[str, Any]:
    """Score the custom set and the held-out reference rows.

    Parts that a killed process finished are kept; a part is fixed by its rows alone.

    Args:
        base: the frozen base; both adapters go on its one copy.
        config: batch and part sizes.
        data: the run's data folder.
        holdout: share of the reference rows that were held out.
        utility: folder of the utility reference.
        degraded: folder of the degraded reference.
        folder: where the parts go.
        known_utility: an earlier round's parts, whose utility losses hold for every round.
        step_fingerprint: what the parts are marked with.
        reporter: where progress goes.
        log: called with the mean losses and score of each part, in nats a token, and its number.

    Returns:
        Facts for the manifest: parts, rows, response tokens, tokens read.
    """
    facts = {"parts": 0, "parts_reused": 0, "rows": 0, "response_tokens": 0, "tokens": 0}
    with pq.ParquetFile(data / "custom.parquet") as file:
        total = file.metadata.num_rows
    with attached_adapters(base, {"utility": utility, "degraded": degraded}) as model:

        def losses_under(adapter: str, rows: Sequence[dict], task: Task) -> list[np.ndarray]:
            model.set_adapter(adapter)
            facts["tokens"] += sum(len(row["input_ids"]) for row in rows)
            return response_losses(
                model,
                rows,
                batch_tokens=config.batch_tokens,
                advance=lambda n, tokens: task.advance(n, tokens),
            )

        passes = 1 if known_utility else 2
        with reporter.task(f"scoring {folder.name}", total * passes) as task:
            wanted = ["row_id", "input_ids", "response_mask"]
            batches = read_batches(data / "custom.parquet", wanted, config.rows_per_part)
            for number, rows in enumerate(batches):
                path = folder / f"part-{number:05d}.parquet"
                facts["parts"] += 1
                facts["rows"] += len(rows)
                facts["response_tokens"] += sum(sum(row["response_mask"]) for row in rows)
                if is_whole(path, step_fingerprint):
                    facts["parts_reused"] += 1
                    task.advance(len(rows) * passes, 0)
                    continue
                if known_utility:
                    utility_losses = _utility_losses(known_utility / path.name)
                else:
                    utility_losses = losses_under("utility", rows, task)
                degraded_losses = losses_under("degraded", rows, task)
                columns = _columns(rows, degraded_losses, utility_losses)
                write_parquet(path, columns, SCORE_SCHEMA, step_fingerprint)
                log(_means(degraded_losses, utility_losses), number)
        for stale in part_files(folder)[facts["parts"] :]:
            stale.unlink()
        _score_heldout(losses_under, data, holdout, folder / HELDOUT, known_utility, step_fingerprint, reporter)
    return facts


def _columns(
    rows: Sequence[dict[str, Any]], degraded: Sequence[np.ndarray], utility: Sequence[np.ndarray]
) -> dict[str, Any]:
    return {
        "row_id": [row["row_id"] for row in rows],
        "position": [np.flatnonzero(row["response_mask"]).astype(np.int32) for row in rows],
        "loss_degraded": list(degraded),
        "loss_utility": list(utility),
    }


def _means(degraded: Sequence[np.ndarray], utility: Sequence[np.ndarray]) -> dict[str, float]:
    means = [float(np.concatenate(losses).mean()) for losses in (degraded, utility)]
    return {"loss_degraded": means[0], "loss_utility": means[1], "score": means[1] - means[0]}


def _utility_losses(path: Path) -> list[np.ndarray]:
    return [
        np.asarray(row["loss_utility"], dtype=np.float32)
        for batch in read_batches(path, ["loss_utility"])
        for row in batch
    ]


def _score_heldout(
    losses_under: Callable[[str, Sequence[dict], Task], list[np.ndarray]],
    data: Path,
    holdout: float,
    path: Path,
    known_utility: Path | None,
    step_fingerprint: str,
    reporter: Reporter,
) -> None:
    if is_whole(path, step_fingerprint):
        return
    rows: list[dict[str, Any]] = []
    for name in ("harmful", "utility"):
        rows += [row | {"set": name} for row in split_rows(data, name, holdout, want_held_out=True)]
    with reporter.task("scoring held-out rows", len(rows) * (1 if known_utility else 2)) as task:
        known = _utility_losses(known_utility / HELDOUT) if known_utility else losses_under("utility", rows, task)
        columns = _columns(rows, losses_under("degraded", rows, task), known)
    write_parquet(path, columns | {"set": [row["set"] for row in rows]}, HELDOUT_SCHEMA, step_fingerprint)
