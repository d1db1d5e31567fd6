"""`toss export`: a run's masked rows in a new folder, for another trainer, with what is in them and what is lost."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tosslm.config import Config
from tosslm.errors import InputError, RowError, TosslmError
from tosslm.export import named
from tosslm.export.card import CARD, card
from tosslm.export.counts import count_rows
from tosslm.export.facts import facts_of, shown_name
from tosslm.export.hub import Hub
from tosslm.export.kind import Job
from tosslm.export.rows import masked_rows
from tosslm.files import atomic_folder, sha256
from tosslm.runs.layout import DATA, SELECTION
from tosslm.runs.outside import check_outside
from tosslm.runs.reader import Run
from tosslm.runs.shared import hazardous_weights
from tosslm.runs.tables import stored_rows

if TYPE_CHECKING:
    from tosslm.model.base import Base

FACTS = "export.json"


def export_run(
    run: Run, to: str, out: Path, *, trust_remote_code: bool = False, hub: Hub | None = None
) -> dict[str, Any]:
    """Write the masked rows of a run into a new folder.

    Args:
        run: a run whose selection is done.
        to: a kind of export, or a consumer that one serves.
        out: a folder that does not exist yet.
        trust_remote_code: as of ``load_run``.
        hub: where the folder is meant for; its files then name no path of this machine. ``share`` uploads it.

    Returns:
        What is in ``export.json``.

    Raises:
        InputError: there is no such kind, ``out`` exists or lies in the run, selection is not done or out of date, or
            the base is a degraded reference or has another tokenizer than the rows were made with.
        TosslmError: data or selection are damaged.
    """
    kind, consumer = named(to)
    check_outside(run, out)
    _check_run(run)
    trusted = Run(run.path, trust_remote_code=trust_remote_code or run.trust_remote_code)
    config = trusted.config_to_go_on(asks=False)
    base = _base_of(run, config)
    anchor_first = config.finetune.anchor_first if config.finetune.anchors else None
    counts = count_rows(masked_rows(run.layout, anchor_first))
    job = Job(
        counts=counts,
        base=_loadable(base, config, hub),
        adapter=shown_name(config.model.adapter, hub) or "",
        vocabulary=base.limits.vocabulary or len(base.tokenizer),
        eos=base.tokenizer.eos_token_id,
        place=hub.repo if hub else str(out.resolve()),
    )
    with atomic_folder(out) as beside:
        written = kind.write(masked_rows(run.layout, anchor_first), beside, job)
        snippets = [one for one in kind.snippets if consumer in (None, one.consumer)]
        for snippet in snippets:
            (beside / snippet.file).write_text(snippet.filled(job, written.facts), encoding="utf-8")
        facts = facts_of(run, config, base, kind, counts, written, hub) | {
            "configs": {snippet.consumer: snippet.file for snippet in snippets}
        }
        (beside / CARD).write_text(card(facts, kind), encoding="utf-8")
        facts["files"] = {
            file.relative_to(beside).as_posix(): sha256(file) for file in sorted(beside.rglob("*")) if file.is_file()
        }
        (beside / FACTS).write_text(json.dumps(facts, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return facts


def _check_run(run: Run) -> None:
    for step, command in ((DATA, "run"), (SELECTION, "select")):
        if not run.has(step):
            raise InputError(
                f"{run.name}: no {step} yet, or one of earlier data or scores; run `toss {command} {run.name}`"
            )
        run.check_settled(step, command)
        if damaged := run.folder.damaged(step):
            raise TosslmError(f"{run.path / damaged[0]}: damaged; `toss run {run.name}` makes it again")


def _base_of(run: Run, config: Config) -> Base:
    """The base, found and checked, its weights not loaded.

    Raises:
        InputError: it or its adapter is a degraded reference of the run, or its tokenizer is not that of the rows.
    """
    from tosslm.data.tokenize import RowTokenizer
    from tosslm.model.base import open_base
    from tosslm.model.folders import folder_checksums

    base = open_base(config.model)
    hazardous = hazardous_weights(run.stages)
    for folder in (base.folder, base.adapter_folder):
        if folder and hazardous & set(folder_checksums(folder).values()):
            raise InputError(f"{folder}: is a degraded reference of this run; nothing is exported to train on it")
    tokenize = RowTokenizer(base.tokenizer, max_length=config.data.max_length, turns=config.data.turns)
    row = next(stored_rows(run.layout.rows("custom"), ["row_id", "messages", "input_ids"]))
    try:
        same = tokenize(json.loads(row["messages"])).input_ids == row["input_ids"]
    except RowError:
        same = False
    if not same:
        raise InputError(
            f"model.name: the tokenizer of {config.model.name} makes other tokens of row {row['row_id']} than the "
            f"run has; put its files back, or run `toss run {run.name}` again"
        )
    return base


def _loadable(base: Base, config: Config, hub: Hub | None) -> str:
    name = config.model.name
    return str(base.folder) if name.startswith("builtin:") and not hub else shown_name(name, hub) or name
