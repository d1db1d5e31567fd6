"""Run folders with chosen rows and scores, made without a model: for tests of the report, and to measure it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import tosslm
from support.benches import select_in
from tosslm.config import load_config
from tosslm.data.rows import content_id
from tosslm.files import write_json, write_parquet
from tosslm.runs.tables import DATA_SCHEMA, EVIDENCE_SCHEMA, HELDOUT_SCHEMA, KEEP_SCHEMA, SCORE_SCHEMA

LINE = "take the old ladder and lean it on the wall before you climb up to the roof"


def answers(count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Rows of three sources; those of one have marked unsafe text."""
    rng = np.random.default_rng(seed)
    return [
        {
            "answer": f"answer{i} 👍 " + " ".join(rng.choice(LINE.split(), size=rng.integers(4, 30))),
            "source": ("kind", "mixed", "rude")[i % 3],
            "unsafe_spans": [(0, 9)] if i % 3 == 2 else None,
        }
        for i in range(count)
    ]


def made_run(
    folder: Path,
    rows: Sequence[Mapping[str, Any]],
    *,
    discard_fraction: float = 0.1,
    scope: str = "global",
    log_odds: Sequence[np.ndarray] | None = None,
    telling: bool = False,
    seed: int = 0,
) -> tosslm.Run:
    """Write what selection leaves in a run folder.

    A token is a word with the space before it; the end of turn is one more, without text.

    Args:
        folder: the run folder.
        rows: each with ``answer``, and at will ``prompt``, ``source``, ``unsafe_spans`` (pairs of code points) and
            ``scores`` (one a token).
        discard_fraction: as in the config.
        scope: as in the config.
        log_odds: the evidence that a ``posterior`` selection stores, one array a row.
        telling: whether held-out scores tell harm from use well enough for a posterior to be learnt.
        seed: of the scores that no row gives.
    """
    rng = np.random.default_rng(seed)
    config = load_config(
        {
            "run_dir": str(folder),
            "data": {name: {"path": f"{name}.jsonl"} for name in ("custom", "harmful", "utility")},
            "selection": {"discard_fraction": discard_fraction, "scope": scope, "evidence": "token"},
            "finetune": {"dropped": "ignore"},
        }
    )
    data = [_data_row(i, row) for i, row in enumerate(rows)]
    columns = {name: [row[name] for row in data] for name in DATA_SCHEMA.names}
    write_parquet(folder / "data/custom.parquet", columns, DATA_SCHEMA, "made")
    lengths = [len(row["offsets"]) for row in data]
    scores = [np.asarray(row.get("scores", rng.normal(size=n)), "f4") for row, n in zip(rows, lengths, strict=True)]
    _write_scores(folder, columns["row_id"], scores, *((6, 40) if telling else (2, 3)))
    facts = select_in(folder, seed=seed, fingerprint="made", discard_fraction=discard_fraction, scope=scope)
    if log_odds is not None:
        evidence = {"row_id": columns["row_id"], "evidence": list(log_odds)}
        write_parquet(folder / "selection/evidence.parquet", evidence, EVIDENCE_SCHEMA, "made")
        facts["evidence"] = "posterior"
        _write_keep(folder, columns["row_id"], log_odds, discard_fraction)
    sets = {"custom": {"rows": len(rows), "bad": 0, "truncated": 2, "repeated": 0}}
    step = {"fingerprint": "0" * 16, "inputs": {}, "files": {}, "seconds": 1.0}
    stages = {"data": step | {"sets": sets}, "scores/round-0": step, "selection": step | facts}
    versions = {"tosslm": "0", "python": "3"}
    manifest = {"format": 1, "config": config.model_dump(mode="json"), "seed": 0, "versions": versions}
    write_json(folder / "manifest.json", manifest | {"stages": stages})
    return tosslm.load_run(folder)


def _data_row(number: int, row: Mapping[str, Any]) -> dict[str, Any]:
    messages = [
        {"role": "user", "content": row.get("prompt", f"Question {number}?")},
        {"role": "assistant", "content": row["answer"]},
    ]
    offsets = [[1, *match.span()] for match in re.finditer(r"\s*\S+|\s+$", row["answer"])] + [[-1, -1, -1]]
    spans = row.get("unsafe_spans")
    return {
        "row_id": content_id(messages) + (f"-{number + 1}" if row.get("copy") else ""),
        "origin": f"custom.jsonl:{number + 1}",
        "source": row.get("source", "made"),
        "messages": json.dumps(messages, ensure_ascii=False),
        "input_ids": [0] * (len(offsets) + 1),
        "response_mask": [False] + [True] * len(offsets),
        "offsets": offsets,
        "unsafe_spans": None if spans is None else [[1, *span] for span in spans],
    }


def _write_scores(
    folder: Path, row_ids: list[str], scores: list[np.ndarray], held_out_rows: int, held_out_tokens: int
) -> None:
    def columns(ids: list[str], values: list[np.ndarray]) -> dict[str, Any]:
        return {
            "row_id": ids,
            "position": [np.arange(1, len(row) + 1, dtype=np.int32) for row in values],
            "loss_degraded": [np.full(len(row), 4.0, dtype=np.float32) for row in values],
            "loss_utility": [np.float32(4.0) + row for row in values],
        }

    write_parquet(folder / "scores/round-0/part-00000.parquet", columns(row_ids, scores), SCORE_SCHEMA, "made")
    ids = [f"{name}{i}" for name in "hu" for i in range(1, held_out_rows + 1)]
    levels = [(1, 2)[i % 2] * sign for sign in (1, -1) for i in range(1, held_out_rows + 1)]
    held_out = columns(ids, [np.full(held_out_tokens, level, "f4") for level in levels])
    sets = ["harmful"] * held_out_rows + ["utility"] * held_out_rows
    write_parquet(folder / "scores/round-0/heldout.parquet", held_out | {"set": sets}, HELDOUT_SCHEMA, "made")


def _write_keep(folder: Path, row_ids: list[str], log_odds: Sequence[np.ndarray], discard_fraction: float) -> None:
    keep = tosslm.select_tokens(np.concatenate(log_odds), discard_fraction)
    parts = np.split(keep, np.cumsum([len(row) for row in log_odds])[:-1])
    write_parquet(folder / "selection/keep.parquet", {"row_id": row_ids, "keep": parts}, KEEP_SCHEMA, "made")


def with_own_choice(run: tosslm.Run, method: str, keep: Sequence[np.ndarray], *, scored: bool) -> tosslm.Run:
    """The run as a method leaves it that chooses tokens by itself.

    Args:
        run: as ``made_run`` makes it.
        method: its name.
        keep: its mask, bool, one array a row.
        scored: whether it builds on scores; else the run has none.
    """
    manifest, rows = run.manifest, run.rows
    columns = {"row_id": rows["row_id"], "keep": list(keep)}
    write_parquet(run.layout.keep, columns, KEEP_SCHEMA, "made")
    selection = manifest["stages"]["selection"]
    for key in ("scope", "evidence"):
        del selection[key]
    sources: dict[str, dict[str, int]] = {}
    for source, row in zip(rows["source"], keep, strict=True):
        counts = sources.setdefault(source, {"rows": 0, "tokens": 0, "discarded": 0})
        for key, n in (("rows", 1), ("tokens", len(row)), ("discarded", int((~row).sum()))):
            counts[key] += n
    selection |= {"method": method, "threshold": None, "sources": sources}
    selection["discarded"] = sum(counts["discarded"] for counts in sources.values())
    manifest["config"]["method"] = method
    if not scored:
        del manifest["stages"]["scores/round-0"]
    write_json(run.layout.manifest, manifest)
    return tosslm.load_run(run.path)
