"""The keep mask of a run for another model's tokenizer: rows with labels, and what became of the mask on the way."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TextIO

import numpy as np
import pyarrow as pa

from tosslm.carrying import Rule
from tosslm.data.tokenize import RowTokenizer
from tosslm.errors import InputError, RowError, TosslmError
from tosslm.files import atomic_folder, fingerprint, parquet_writer, write_json
from tosslm.findings.transferred import notes
from tosslm.methods import method_of
from tosslm.methods.undone import undone
from tosslm.model.tokenizer import OpenedTokenizer, known_checksums, open_tokenizer
from tosslm.progress import Reporter, SilentReporter
from tosslm.runs.layout import DATA, SELECTION
from tosslm.runs.outside import check_outside
from tosslm.runs.reader import Run
from tosslm.runs.tables import read_keep, stored_rows
from tosslm.transferred import TRANSFER_SCHEMA, Transferred, transfer_row

_COLUMNS = ("row_id", "origin", "messages", "input_ids", "response_mask", "offsets")
_ROWS_PER_WRITE = 256
_NAMED_ROWS = 20
_KEY = "--tokenizer"


@dataclass(slots=True)
class _Tally:
    """What was counted; the names are those of ``transfer.json``."""

    rows: int = 0
    untrained: int = 0
    source: Counter[str] = field(default_factory=Counter)
    target: Counter[str] = field(default_factory=Counter)
    characters: Counter[str] = field(default_factory=Counter)
    skipped: int = 0
    named: list[dict[str, str]] = field(default_factory=list)


def transfer(
    run: Run,
    out: Path,
    *,
    tokenizer: str,
    rule: Rule = "most",
    max_length: int | None = None,
    on_bad_row: Literal["error", "skip"] = "error",
    reporter: Reporter | None = None,
) -> dict[str, Any]:
    """Write the custom set as another model's tokenizer cuts it, with the run's choice of what is trained.

    ``out`` gets ``custom.parquet``, ``transfer.json`` and, where rows are left out, ``skipped.jsonl``.

    Args:
        run: a run whose selection is done.
        out: a folder that does not exist yet.
        tokenizer: a folder, hub id or built-in model whose tokenizer has a chat template.
        rule: a target token is dropped where any, most (more than half) or all of its characters are.
        max_length: tokens of a row to keep, from its start; the run's own where None.
        on_bad_row: what becomes of rows that the other template refuses or that lose all their trained tokens.
        reporter: where progress and remarks go.

    Returns:
        What ``transfer.json`` holds.

    Raises:
        InputError: selection is not done, ``out`` exists or lies in the run, the tokenizer cannot be used, a row is
            bad and ``on_bad_row`` is ``error``, or no row is left.
        TosslmError: the mask does not belong to the rows.
    """
    _check(run, out)
    reporter = reporter or SilentReporter()
    config = run.config
    length = config.data.max_length if max_length is None else max_length
    opened = open_tokenizer(tokenizer, _KEY)
    tokenize = _row_tokenizer(opened, length)
    print_ = fingerprint(run.folder.print_of(SELECTION), opened.files, tokenize.chat_template, rule, length)
    tally = _Tally()
    with atomic_folder(out) as beside:
        with (beside / "skipped.jsonl").open("w", encoding="utf-8") as skipped:
            rows = _transferred(run, tokenize, rule, tally, on_bad_row, skipped, reporter)
            _write(beside / "custom.parquet", rows, print_)
        if not tally.skipped:
            (beside / "skipped.jsonl").unlink()
        if not tally.rows:
            raise InputError(f"{out}: no row is left for {tokenizer}; the first: {tally.named[0]['reason']}")
        facts = _facts(run, opened, tokenize, rule, length, tally)
        write_json(beside / "transfer.json", facts)
    for note in facts["notes"]:
        reporter.say(note)
    return facts


def _check(run: Run, out: Path) -> None:
    if not run.has(SELECTION):
        raise InputError(f"{run.name}: no selection yet, or out of date; run `toss select {run.name}` first")
    run.check_settled(SELECTION, "select")
    check_outside(run, out)


def _row_tokenizer(opened: OpenedTokenizer, max_length: int) -> RowTokenizer:
    try:
        return RowTokenizer(opened.tokenizer, max_length=max_length, limits=opened.limits)
    except InputError as error:
        raise InputError(f"{_KEY}: {opened.name}: {_here(str(error))}") from error


def _here(text: str) -> str:
    """What a message says of the config's keys, said of this command's options."""
    return text.replace("data.max_length", "--max-length").replace("data.on_bad_row:", "--on-bad-row")


def _transferred(
    run: Run,
    tokenize: RowTokenizer,
    rule: Rule,
    tally: _Tally,
    on_bad_row: str,
    skipped: TextIO,
    reporter: Reporter,
) -> Iterator[dict[str, Any]]:
    turns = run.config.data.turns
    total = run.stages[DATA]["sets"]["custom"]["rows"]
    with reporter.task("transfer", total) as task:
        for row, keep in _rows(run):
            try:
                made = transfer_row(row, keep, tokenize, rule, turns)
                if keep.any() and not made.keep.any():
                    raise RowError(
                        f"all of its {keep.sum()} trained tokens are lost",
                        "raise --max-length where the row was cut, or take a --rule that drops less",
                    )
            except RowError as error:
                bad = {"row_id": row["row_id"], "origin": row["origin"], "reason": error.reason}
                bad["remedy"] = _here(error.remedy)
                if on_bad_row == "error":
                    raise InputError(
                        f"row {bad['row_id']} ({bad['origin']}): {bad['reason']}; {bad['remedy']}. "
                        "--on-bad-row skip leaves out such rows"
                    ) from error
                tally.skipped += 1
                tally.named += [bad] * (len(tally.named) < _NAMED_ROWS)
                skipped.write(json.dumps(bad, ensure_ascii=False) + "\n")
            else:
                _count(tally, made)
                yield made.record
            task.advance(1, len(row["input_ids"]))


def _rows(run: Run) -> Iterator[tuple[dict[str, Any], np.ndarray]]:
    masks = read_keep(run.layout.keep)
    for row in stored_rows(run.layout.rows("custom"), _COLUMNS):
        row_id, keep = next(masks, (None, None))
        if row_id != row["row_id"] or keep is None or len(keep) != sum(row["response_mask"]):
            raise TosslmError(
                f"{run.layout.keep}: the keep mask does not fit row {row['row_id']}; run `toss select {run.name}`"
            )
        yield row, keep


def _count(tally: _Tally, made: Transferred) -> None:
    tally.rows += 1
    tally.untrained += not made.keep.any()
    tally.source.update(made.source)
    tally.target.update(made.target)
    tally.characters.update(made.characters)


def _write(path: Path, rows: Iterator[dict[str, Any]], print_: str) -> None:
    with parquet_writer(path, TRANSFER_SCHEMA, print_) as writer:
        pending: list[dict[str, Any]] = []
        for row in rows:
            pending.append(row)
            if len(pending) == _ROWS_PER_WRITE:
                writer.write_table(pa.Table.from_pylist(pending, schema=writer.schema))
                pending = []
        writer.write_table(pa.Table.from_pylist(pending, schema=writer.schema))


def _facts(
    run: Run, opened: OpenedTokenizer, tokenize: RowTokenizer, rule: Rule, max_length: int, tally: _Tally
) -> dict[str, Any]:
    model = run.config.model
    own = {"name": model.name, "revision": model.revision, "files": known_checksums(model)}
    template = hashlib.sha256(tokenize.chat_template.encode()).hexdigest()
    other = {"name": opened.name, "files": opened.files, "chat_template": template, "answers_by": tokenize.method}
    facts = {
        "format": 1,
        "run": run.name,
        "method": run.config.method,
        "selection": run.folder.print_of(SELECTION),
        "rule": rule,
        "max_length": max_length,
        "source_tokenizer": own,
        "target_tokenizer": other,
        "rows": {"transferred": tally.rows, "without_trained_tokens": tally.untrained, "skipped": tally.skipped},
        "skipped": tally.named,
        "source": _with_share(tally.source),
        "target": _with_share(tally.target),
        "characters": dict(tally.characters),
    }
    # Neither is in the rows, so who trains on them should know.
    left = {
        "weights": run.layout.weights.exists(),
        "anchors": run.config.finetune.anchors,
        "context": run.config.selection.context == "drop",
    }
    return facts | {
        "not_transferred": [name for name, there in left.items() if there],
        "notes": [*notes(facts, left), *undone(method_of(run.config))],
    }


def _with_share(counts: Mapping[str, int]) -> dict[str, int | float]:
    return {**counts, "dropped_share": counts["dropped"] / counts["tokens"]}
