"""The evaluation of a model or adapter that was not made here."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tosslm.config import Config, EvaluationConfig, ModelConfig, covered
from tosslm.config.idle import idle_outside
from tosslm.data.habits import reasons
from tosslm.data.own_utility import rows_dealt
from tosslm.data.rows import BadRow, base_id, held_out, source_rows
from tosslm.data.sets import SetCounts, prepared_rows, source_checksums
from tosslm.data.tokenize import RowTokenizer
from tosslm.errors import InputError
from tosslm.evaluation.asking import check_asked
from tosslm.evaluation.checks import check_evaluation, classifier_checksums, prompt_checksums
from tosslm.evaluation.gate import Gate, check_gates
from tosslm.evaluation.measurement import Places, Subject, evaluate_model
from tosslm.files import write_json
from tosslm.model.adapters import attached_adapters
from tosslm.model.base import BASE_KEYS, Base, Keys, open_base, where_it_runs
from tosslm.model.folders import HAZARD_MARK, folder_checksums, is_hazardous
from tosslm.outward import has_credentials
from tosslm.progress import Reporter
from tosslm.runs.folder import RunFolder
from tosslm.runs.layout import EVALUATION
from tosslm.runs.results import write_results

EXTERNAL_FORMAT = 2
_SUBJECT = "subject.json"


def evaluate_external(
    config: Config,
    *,
    model: str | None,
    adapter: str | None,
    folder: Path,
    reporter: Reporter,
    gates: Sequence[Gate] = (),
) -> dict[str, Any]:
    """Measure any model, or the config's base with any adapter on it; a killed evaluation goes on.

    Args:
        config: its sections ``evaluation`` and, for held-out rows, ``data`` and ``references`` count.
        model: hub id or folder; None is the config's base.
        adapter: folder of a PEFT adapter on top of it; None is none.
        folder: where the results go, in ``evaluation/`` there.
        reporter: where progress goes.
        gates: conditions on metrics, which have to be measured.

    Returns:
        The record.

    Raises:
        InputError: a model, an adapter, or the evaluation's settings are wrong, or the folder holds what was
            measured of another model, or what another has answered so far.
    """
    check_evaluation(config.evaluation, config.data.max_row_bytes)
    held_out = config.references.holdout > 0
    check_gates(gates, config.evaluation, held_out=held_out, compared=False)
    for option, named in (("--model", model), ("--adapter", adapter)):
        if named and has_credentials(named):
            raise InputError(f"{option}: a URL with a password in it; leave it out, and set HF_TOKEN")
    chosen = config.model.model_copy(update={"name": model, "adapter": None, "revision": None} if model else {})
    if model and chosen.quantize:
        reporter.say(
            f"--model: {model} is measured in {chosen.quantize}, as model.quantize says; whole with "
            "--set model.quantize=null"
        )
    for idle in idle_outside(config.evaluation, held_out=held_out):
        reporter.say(idle)
    base = open_base(chosen, Keys("--model", "--adapter") if model else BASE_KEYS)
    if adapter and (told := other_base_told(Path(adapter), base)):
        reporter.say(told)
    if adapter and is_hazardous(Path(adapter)):
        reporter.say(f"--adapter: {adapter} is a degraded reference ({HAZARD_MARK}): what it writes may be harmful")
    tokenizer = base.row_tokenizer(config.data)
    check_asked(config.evaluation, tokenizer, config.data.max_row_bytes)
    out = RunFolder(folder)
    if others := [name for name in out.stages if name != EVALUATION]:
        raise InputError(f"--out: {folder} is a run folder of its own (it holds {others[0]}); name another folder")
    sources = {name: source_checksums(config.data.sources[_read_as(config, name)]) for name in ("harmful", "utility")}
    parts = [
        config.evaluation.model_dump(),
        prompt_checksums(config.evaluation),
        [covered(config.data), sources, config.references.holdout] if _asks_rows(config.evaluation) else None,
        [base.identity, folder_checksums(Path(adapter)) if adapter else None, config.seed],
        *(["spoken"] if reasons(tokenizer) else []),
        *classifier_checksums(config.evaluation),
        *base.answering,
    ]
    mark = out.mark(EVALUATION, EXTERNAL_FORMAT, parts, (), (EVALUATION,))
    measured = _named(chosen, adapter)

    def work() -> dict[str, Any]:
        write_json(mark.work / _SUBJECT, measured)
        with _loaded(base, adapter) as subject:
            record = evaluate_model(
                Subject(subject, tokenizer, "model", None),
                config.evaluation,
                {name: _held_out_rows(config, name, tokenizer, reporter) for name in ("harmful", "utility")},
                Places(out.layout.of(EVALUATION) / "model", mark.work, out.layout.verdicts),
                seed=config.seed,
                max_row_bytes=config.data.max_row_bytes,
                reporter=reporter,
            )
        write_results(out.layout.results, [record])
        return {"record": record, **measured}

    with out.lock((EVALUATION,)):
        if not out.is_done(mark):
            _refuse_another(out, measured)
            _refuse_unfinished(mark.work, measured)
        out.begin(config.model_dump(mode="json"), config.seed, where_it_runs(config.model))
        if not out.do(mark, work):
            reporter.say(f"{folder}: done before")
        return out.stages[EVALUATION]["record"]


def other_base_told(adapter: Path, base: Base) -> str | None:
    """That an adapter names another base than the one it is measured on; None where it does not, or names none."""
    try:
        settings = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None  # what is missing or damaged is refused where it is loaded
    named = settings.get("base_model_name_or_path") if isinstance(settings, dict) else None
    known = {base.config.name, str(base.folder), str(base.folder.resolve())}
    if not isinstance(named, str) or not named or {named, str(Path(named).resolve())} & known:
        return None
    return (
        f"--adapter: {adapter} says that its base is {named}, and it is measured on {base.config.name}; where these "
        "are two models, name its own with --model"
    )


def _named(model: ModelConfig, adapter: str | None) -> dict[str, Any]:
    """What tells one model that is measured from another, as the user named it."""
    return {
        "model": model.name,
        "adapter": adapter,
        "revision": model.revision,
        "merged": model.adapter,
        "quantize": model.quantize,
    }


def _refuse_another(out: RunFolder, named: Mapping[str, Any]) -> None:
    """Keep what was measured of another model; what was of the same one gives way to what is measured anew.

    Raises:
        InputError: names the model whose results are there.
    """
    entry = out.stages.get(EVALUATION, {})
    there = {key: entry[key] for key in named if key in entry}  # earlier versions wrote down the first two
    if _differ(there, named):
        raise InputError(
            f"--out: {out.path} holds the results of {_told(there)}, which those of {_told(named)} would replace; "
            "name another folder with --out"
        )


def _refuse_unfinished(work: Path, named: Mapping[str, Any]) -> None:
    """Keep what another model has answered so far, of an evaluation that was killed.

    Raises:
        InputError: names that model.
    """
    try:
        there = json.loads((work / _SUBJECT).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return  # nothing was begun, or by a version that did not write this down
    if any(work.glob("*.jsonl")) and _differ(there, named):
        raise InputError(
            f"--out: {work} holds what {_told(there)} has answered so far, which would be lost; name another folder "
            f"for {_told(named)} with --out, or remove {work}"
        )


def _differ(there: Mapping[str, Any], named: Mapping[str, Any]) -> bool:
    return any(_resolved(there[key]) != _resolved(named[key]) for key in there)


def _resolved(name: str | None) -> str | Path | None:
    """One folder is one model, by whatever path it is named."""
    return Path(name).resolve() if name and Path(name).exists() else name


def _told(named: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in named.items() if value)


@contextmanager
def _loaded(base: Base, adapter: str | None) -> Iterator[Any]:
    if adapter is None:
        yield base.model
        return
    try:
        with attached_adapters(base, {"default": Path(adapter)}) as model:
            yield model
    except (RuntimeError, ValueError) as error:
        raise InputError(f"--adapter: {adapter} does not fit {base.config.name} ({error})") from error


def _read_as(config: Config, name: str) -> str:
    """The set of the config that a reference set's rows are read from."""
    return "custom" if name == "utility" and config.data.utility.of_custom else name


def _asks_rows(settings: EvaluationConfig) -> bool:
    """Whether rows of the reference sets have a part in what is measured."""
    return bool(settings.losses or settings.utility_prompts)


def _held_out_rows(config: Config, name: str, tokenizer: RowTokenizer, reporter: Reporter) -> list[dict[str, Any]]:
    """The rows that the references of a run of this config never see, tokenised for this model."""
    wanted = config.evaluation.losses or (name == "utility" and config.evaluation.utility_prompts)
    if not wanted or not config.references.holdout:
        return []
    of, most = _read_as(config, name), config.data.max_row_bytes
    records = prepared_rows(config.data.sources[of], tokenizer, SetCounts(), max_row_bytes=most, key=f"data.{of}")
    rows = [row | {"messages": json.loads(row["messages"])} for row in _usable(records, of, config, reporter)]
    ids = {row["row_id"] for row in rows}
    if name == "utility" and config.data.utility.of_custom:
        # Rows are dealt as they are read, those among them that then give no tokens.
        read = source_rows(config.data.custom, config.data.max_row_bytes)
        dealt = rows_dealt((row.row_id for row in read if not isinstance(row, BadRow)), config.data.utility.rows)
        ids = {row_id for row_id in ids if base_id(row_id) in dealt}
    apart = held_out(ids, config.references.holdout)
    return [row for row in rows if base_id(row["row_id"]) in apart]


def _usable(
    records: Iterator[dict[str, Any] | BadRow], name: str, config: Config, reporter: Reporter
) -> Iterator[dict[str, Any]]:
    """The good rows of a set; what becomes of the others is for ``data.on_bad_row`` to say, as it is in a run.

    Raises:
        InputError: a row is bad, and none is to be left out.
    """
    bad: list[BadRow] = []
    for row in records:
        if not isinstance(row, BadRow):
            yield row
        elif config.data.on_bad_row == "error":
            raise InputError(
                f"data.{name}: {row.origin}: {row.reason}; {row.remedy}. Of this model, --set data.on_bad_row=skip "
                "leaves such rows out, and other rows may be held out then"
            )
        else:
            bad.append(row)
    if bad:
        reporter.say(
            f"data.{name}: {len(bad):,} bad rows are left out of the losses, the first {bad[0].origin}: "
            f"{bad[0].reason}"
        )
