"""Made rows and scores of any number, written as a run's stages write them, without a model and in constant memory.

Of each row of the custom set the tokens are real in number and place, and the scores come from the chain that
evidence in context assumes: stretches of unsafe tokens in every fifth row, whose scores are higher on average.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from tosslm.config import load_config
from tosslm.files import parquet_writer, read_tables, sha256, write_json, write_parquet
from tosslm.ragged import row_starts
from tosslm.runs.tables import (
    DATA_SCHEMA,
    HELDOUT_SCHEMA,
    SCORE_SCHEMA,
    list_column,
    part_files,
    part_name,
)

ROWS_PER_PART = 1024
HELD_OUT_ROWS = 120
"""Of each reference set."""
FINGERPRINT = "made"
STEP = {"fingerprint": FINGERPRINT, "inputs": {}, "seconds": 1.0}
"""What is recorded of a step beside its files."""
_TEXT = "take the old ladder and lean it on the wall before you climb to the roof with your tools"
_WORDS = np.array(_TEXT.split())


def conversations(
    rows: int, seed: int = 0, *, words_of: tuple[int, int] = (48, 149), mark_every: int | None = None
) -> Iterator[dict[str, Any]]:
    """Chat rows, no two alike; by default 50 to 150 words in the answer, about 100 tokens for most tokenizers.

    Args:
        rows: how many.
        seed: of the words.
        words_of: fewest words of an answer, and one more than the most.
        mark_every: of so many rows one marks the beginning of its answer as unsafe text; None marks none.
    """
    rng = np.random.default_rng(seed)
    for number in range(rows):
        words = rng.choice(len(_WORDS), size=rng.integers(*words_of))
        answer = " ".join(_WORDS[words])
        turns = [("user", f"Question {number}?"), ("assistant", f"Answer {number}: {answer}.")]
        source = ("kind", "mixed", "rude")[number % 3]
        marks = {"unsafe_spans": [[0, 20]]} if mark_every and number % mark_every == 0 else {}
        yield {"messages": [{"role": role, "content": text} for role, text in turns], "source": source} | marks


def write_jsonl(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Chat rows as JSON Lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)


def write_tokens(path: Path, rows: int, seed: int = 0) -> None:
    """A set as the data stage writes it, with 50 to 150 response tokens a row, each a text of eight characters."""
    rng = np.random.default_rng(seed)
    with parquet_writer(path, DATA_SCHEMA, FINGERPRINT) as writer:
        for start in range(0, rows, ROWS_PER_PART):
            numbers = range(start, min(start + ROWS_PER_PART, rows))
            writer.write_table(_tokens(numbers, rng.integers(50, 151, len(numbers))))


def _tokens(numbers: range, lengths: np.ndarray) -> pa.Table:
    starts = row_starts(lengths).astype(np.int32)
    at = np.arange(starts[-1], dtype=np.int32) - np.repeat(starts[:-1], lengths)
    triples = np.stack([np.ones_like(at), 8 * at, 8 * at + 8], axis=1).ravel()
    places = pa.ListArray.from_arrays(np.arange(0, len(triples) + 1, 3, dtype=np.int32), pa.array(triples))
    text = "".join(f" word{n:03d}" for n in range(150))
    messages = [
        json.dumps([{"role": "user", "content": "Hi"}, {"role": "assistant", "content": text[: 8 * n]}])
        for n in lengths.tolist()
    ]
    columns = {
        "row_id": [f"{number:016x}" for number in numbers],
        "origin": [f"custom.jsonl:{number + 1}" for number in numbers],
        "source": [("kind", "mixed", "rude")[number % 3] for number in numbers],
        "messages": messages,
        "input_ids": pa.ListArray.from_arrays(pa.array(starts), pa.array(at)),
        "response_mask": pa.ListArray.from_arrays(pa.array(starts), pa.array(np.ones(len(at), dtype=bool))),
        "offsets": pa.ListArray.from_arrays(pa.array(starts), places),
        "unsafe_spans": [None] * len(numbers),
    }
    return pa.table(columns, schema=DATA_SCHEMA)


def write_scores(folder: Path, seed: int = 1) -> int:
    """Scores of a custom set that is there, in parts of 1024 rows, and of held-out rows; how many tokens."""
    rng, place = np.random.default_rng(seed), folder / "scores/round-0"
    tokens, waiting, number = 0, [], 0
    for table in read_tables(folder / "data/custom.parquet", ["row_id", "response_mask"]):
        counts = [int(np.count_nonzero(mask)) for mask in table["response_mask"].to_pylist()]
        waiting += list(zip(table["row_id"].to_pylist(), counts, strict=True))
        tokens += sum(counts)
        while len(waiting) >= ROWS_PER_PART:
            _write_part(place / part_name(number), waiting[:ROWS_PER_PART], rng)
            waiting, number = waiting[ROWS_PER_PART:], number + 1
    if waiting:
        _write_part(place / part_name(number), waiting, rng)
    held_out = [(f"{name}{i}", 100) for name in "hu" for i in range(HELD_OUT_ROWS)]
    columns = _losses(held_out, rng, unsafe_rows=np.arange(2 * HELD_OUT_ROWS) < HELD_OUT_ROWS)
    sets = ["harmful"] * HELD_OUT_ROWS + ["utility"] * HELD_OUT_ROWS
    write_parquet(place / "heldout.parquet", columns | {"set": sets}, HELDOUT_SCHEMA, FINGERPRINT)
    return tokens


def _write_part(path: Path, rows: list[tuple[str, int]], rng: np.random.Generator) -> None:
    columns = _losses(rows, rng, unsafe_rows=rng.random(len(rows)) < 0.2)
    write_parquet(path, columns, SCORE_SCHEMA, FINGERPRINT)


def _losses(rows: list[tuple[str, int]], rng: np.random.Generator, *, unsafe_rows: np.ndarray) -> dict[str, Any]:
    lengths = np.array([length for _, length in rows])
    at = np.arange(lengths.sum()) - np.repeat(row_starts(lengths)[:-1], lengths)
    first, size = (rng.random(len(rows)) * lengths / 2, rng.integers(5, 40, len(rows)))
    unsafe = np.repeat(unsafe_rows, lengths) & (at >= np.repeat(first, lengths))
    unsafe &= at < np.repeat(first + size, lengths)
    degraded = rng.gamma(1.0, 2.0, len(at)).astype(np.float32)
    score = (1.5 * rng.standard_normal(len(at)) + np.where(unsafe, 1.0, -0.5)).astype(np.float32)
    values = (at.astype(np.int32) + 1, degraded, degraded + score)
    names = ("position", "loss_degraded", "loss_utility")
    split = {name: list_column(value, lengths) for name, value in zip(names, values, strict=True)}
    return {"row_id": [row_id for row_id, _ in rows], **split}


def write_manifest(folder: Path, config: dict[str, Any], selection: dict[str, Any] | None = None) -> None:
    """A manifest that calls data and scores done, and selection where its facts are given.

    What other stages have recorded stays; files are recorded with their checksums.
    """
    loaded = load_config({"run_dir": str(folder)} | config)
    file = folder / "manifest.json"
    earlier = json.loads(file.read_text(encoding="utf-8"))["stages"] if file.exists() else {}
    known = earlier.get("data", {"sets": _sets(folder)})
    stages = earlier | {"data": STEP | known | {"files": _files(folder / "data")}}
    stages.pop("selection", None)
    stages["scores/round-0"] = STEP | {"files": _files(folder / "scores/round-0")}
    if selection is not None:
        stages["selection"] = STEP | {"files": _files(folder / "selection")} | selection
    manifest = {"format": 1, "config": loaded.model_dump(mode="json"), "seed": 0, "versions": {"tosslm": "0"}}
    write_json(file, manifest | {"stages": stages})


def _files(step: Path) -> dict[str, str]:
    """Checksums by path in the run folder."""
    run = step.parent if step.parent.name != "scores" else step.parents[1]
    return {path.relative_to(run).as_posix(): sha256(path) for path in sorted(step.iterdir())}


def _sets(folder: Path) -> dict[str, Any]:
    rows = sum(len(table) for table in read_tables(folder / "data/custom.parquet", ["row_id"]))
    own = {"rows": rows, "bad": 0, "truncated": 0, "repeated": 0, "sources": {}}
    return dict.fromkeys(("custom", "harmful", "utility"), own)


def copies(source: Path, target: Path, rows: int, fingerprint: str) -> None:
    """The rows of a set over and over, each with an id of its own, as a file of the data stage.

    Args:
        source: the set's file.
        target: the file to write.
        rows: how many.
        fingerprint: of the step that the file is to be of.
    """
    table = pa.concat_tables(read_tables(source)).replace_schema_metadata(None)
    with parquet_writer(target, DATA_SCHEMA, fingerprint) as writer:
        for start in range(0, rows, len(table)):
            own = table.slice(0, rows - start)
            ids = pa.array([f"{start + number:016x}" for number in range(len(own))])
            writer.write_table(own.set_column(0, "row_id", ids))


def repeat(source: Path, target: Path, times: int) -> None:
    """A made set several times over, its parts by links: as large to read, and soon made."""
    files = part_files(source / "scores/round-0")
    place = target / "scores/round-0"
    place.mkdir(parents=True)
    for number in range(times * len(files)):
        (place / part_name(number)).hardlink_to(files[number % len(files)])
    (place / "heldout.parquet").hardlink_to(source / "scores/round-0/heldout.parquet")
    rows = pa.concat_tables(read_tables(source / "data/custom.parquet", ["row_id", "source"]))
    with parquet_writer(target / "data/custom.parquet", rows.schema.remove_metadata(), FINGERPRINT) as writer:
        for _ in range(times):
            writer.write_table(rows.replace_schema_metadata(None), row_group_size=ROWS_PER_PART)
