"""The keep mask of a run for another model's tokenizer: rows with labels, and what became of the mask on the way."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, TextIO

import numpy as np
import pyarrow as pa

from tosslm.characters import (
    Carried,
    Rule,
    Tokens,
    carry_mask,
    changed_sides,
)
from tosslm.data.answers import place_row
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
from tosslm.training.labels import training_row

_INTS, _BOOLS = pa.list_(pa.int32()), pa.list_(pa.bool_())
TRANSFER_SCHEMA = pa.schema(
    {"row_id": pa.string(), "input_ids": _INTS, "labels": _INTS, "attention_mask": pa.list_(pa.int8())}
    | {"keep": _BOOLS, "response_mask": _BOOLS}
)
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


@dataclass(frozen=True, slots=True)
class Transferred:
    """A row for another tokenizer.

    Attributes:
        record: of ``TRANSFER_SCHEMA``.
        keep: bool ``[m]``, one a response token.
        source: how many tokens, and of which kinds.
        target: the same of the target.
        characters: how many, and how many of them change sides.
    """

    record: dict[str, Any]
    keep: np.ndarray
    source: dict[str, int]
    target: dict[str, int]
    characters: dict[str, int]


def transfer_row(
    row: Mapping[str, Any],
    keep: np.ndarray,
    tokenize: RowTokenizer,
    rule: Rule,
    turns: Literal["all", "last"] = "all",
) -> Transferred:
    """Tokenise a row anew and carry its mask over.

    Answers that the source does not train are not trained here either.

    Args:
        row: ``row_id``, ``messages`` (JSON), ``input_ids``, ``response_mask`` and ``offsets`` of ``DATA_SCHEMA``.
        keep: bool ``[n]``, one a response token.
        tokenize: of the target.
        rule: how many characters drop a token.
        turns: ``data.turns`` of the run.

    Raises:
        RowError: the target's template refuses the row, or the target has no room for it.
    """
    placed = place_row(row, turns)
    source, axis = placed.tokens, placed.axis
    made = placed.again(tokenize)
    target = placed.place(made.offsets, made.response_mask, made.input_ids)
    carried = carry_mask(source, keep, target, axis, rule)
    trainable = training_row(made.input_ids, made.response_mask, carried.keep.tolist())
    record = {
        "row_id": row["row_id"],
        "input_ids": made.input_ids,
        "labels": trainable["labels"],
        "attention_mask": [1] * len(made.input_ids),
        "keep": carried.keep.tolist(),
        "response_mask": made.response_mask,
    }
    counts = _counts(source, keep, target, carried)
    sides = asdict(changed_sides(source, keep, target, carried, axis.size))
    return Transferred(record, carried.keep, *counts, sides)


def _counts(
    source: Tokens, keep: np.ndarray, target: Tokens, carried: Carried
) -> tuple[dict[str, int], dict[str, int]]:
    last = np.append(source.answer[1:] != source.answer[:-1], True)  # an end of turn hands its choice on
    copied = np.isin(np.arange(len(keep)), carried.partner)
    before = {
        "tokens": len(keep),
        "dropped": int((~keep).sum()),
        "without_text": int((~source.has_text).sum()),
        "without_text_dropped_not_carried": int((~source.has_text & ~last & ~keep & ~copied).sum()),
    }
    after = {
        "tokens": len(carried.keep),
        "dropped": int((~carried.keep).sum()),
        "not_in_source": int((~carried.chosen).sum()),
        "without_text": int((~target.has_text).sum()),
        "without_text_copied": int((~target.has_text & (carried.partner >= 0)).sum()),
    }
    return before, after


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
