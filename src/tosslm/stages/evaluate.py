"""The evaluation stage: base and fine-tuned model are asked, and what they say is measured."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from tosslm.config import Config
from tosslm.evaluation.checks import asked_prompts, classifier_checksums, prompt_checksums
from tosslm.evaluation.comparison import BASE, STANDARD
from tosslm.evaluation.seen import seen_prompts
from tosslm.files import fingerprint, sha256
from tosslm.findings.apart import seen_told
from tosslm.methods.method import Method
from tosslm.runs.folder import RunFolder
from tosslm.runs.layout import DATA, EVALUATED, EVALUATION, MODEL, RESULTS, evaluation, evaluation_at
from tosslm.runs.recorded import Mark
from tosslm.runs.results import read_record, write_results
from tosslm.runs.tables import held_out_rows, stored_rows
from tosslm.stages.step import Facts, Stage, Step
from tosslm.workbench import Workbench


def _steps(config: Config, method: Method, before: Sequence[Step]) -> list[Step]:
    """Base and model are measured, where the config names something to ask them.

    In a comparison the base is measured once, by the method that trains nothing.
    """
    if not config.evaluation.asks:
        return []
    if not method.trains:
        return [_step(BASE), _results_step(BASE)]
    scaled = [_scaled_step(scale) for scale in config.evaluation.scales]
    if config.compare.part_of:
        return [_step(MODEL), _results_step(MODEL), *scaled]
    rival = (evaluation(BASE),) if config.evaluation.judge else ()
    return [_step(BASE), _step(MODEL, rival), _results_step(BASE, MODEL), *scaled]


_VERSION = 2  # since phrases of refusals are told more narrowly, and classifiers read whole templates
STAGE = Stage("evaluate", (EVALUATION,), _steps)


def _step(name: str, rival: tuple[str, ...] = ()) -> Step:
    """One model, and the step whose answers a judge compares its own with."""
    trained = name == MODEL
    return Step(
        evaluation(name),
        "evaluate",
        _VERSION,
        (DATA, *((MODEL,) if trained else ()), *rival),
        lambda bench, mark: _evaluate(bench, mark, name),
        lambda bench: _covers(bench, _rival(bench) if trained else None),
    )


def _results_step(*names: str) -> Step:
    """The records of models in one file. That of each is the same in a run and in a comparison of it; this is not."""
    reads = tuple(map(evaluation, names))

    def gather(bench: Workbench, mark: Mark) -> Facts:
        write_results(bench.layout.results, [read_record(bench.layout.of(one)) for one in reads])
        return {}

    return Step(EVALUATED, "evaluate", 1, reads, gather, writes=(f"{EVALUATION}/{RESULTS}",))


def _scaled_step(scale: float) -> Step:
    """The model with less of its adapter, or more; its record stands by itself."""
    return Step(
        evaluation_at(scale),
        "evaluate",
        _VERSION,
        (DATA, MODEL),
        lambda bench, mark: _evaluate(bench, mark, MODEL, scale),
        lambda bench: [*_covers(bench, _rival(bench)), scale],
    )


def _asked(bench: Workbench) -> list[Any]:
    """What is asked, and by whom answers are judged, whichever model of this base answers."""
    from tosslm.data.habits import reasons

    config = bench.config
    settings = config.evaluation
    # What else is measured changes nothing of this.
    parts: list[Any] = [
        settings.model_dump(exclude={"scales"}),
        prompt_checksums(settings),
        config.references.holdout,
    ]
    parts += [config.seed, bench.base.identity, *(["spoken"] if reasons(bench.tokenizer) else [])]
    return parts + classifier_checksums(settings) + bench.base.answering


def _covers(bench: Workbench, rival: Path | None) -> list[Any]:
    parts, settings = _asked(bench), bench.config.evaluation
    if rival and settings.judge:
        parts.append({file.name: sha256(file) for file in sorted(rival.glob("*.jsonl"))})
    return parts


def _rival(bench: Workbench) -> Path | None:
    """Folder of the answers that a judge compares the model's with: the base's, in a comparison standard SFT's.

    None where nobody is compared with: of standard SFT itself, or where its answers are not there.
    """
    config, layout = bench.config, bench.layout
    if not config.compare.part_of:
        return layout.of(evaluation(BASE))
    if config.method == STANDARD or not config.evaluation.judge:
        return None
    standard = RunFolder(layout.root / config.compare.part_of / STANDARD / f"seed-{config.seed}")
    # Where standard SFT has failed, what an earlier one of other settings has answered may still lie there.
    return standard.layout.of(evaluation(MODEL)) if standard.holds(evaluation(MODEL)) else None


def _evaluate(bench: Workbench, mark: Mark, name: str, scale: float | None = None) -> Facts:
    from tosslm.evaluation.measurement import Places, Subject, evaluate_model

    config, layout, trained = bench.config, bench.layout, name == MODEL
    rival = _rival(bench) if trained else None
    if trained and config.evaluation.judge and config.method != STANDARD and rival is None:
        bench.reporter.say(
            f"evaluation.judge: no answers of {STANDARD} with these settings are there to compare with: no win rate"
        )
    with _measured(bench, trained, scale or 1.0) as adapted:
        model = adapted or bench.base.model
        evaluate_model(
            Subject(model, bench.tokenizer, name, config.seed if trained else None, scale),
            config.evaluation,
            {one: held_out_rows(layout.rows(one), config.references.holdout) for one in ("harmful", "utility")},
            Places(layout.of(mark.name), mark.work, layout.verdicts, rival),
            seed=config.seed,
            max_row_bytes=config.data.max_row_bytes,
            reporter=bench.reporter,
        )
    facts = _seen(bench) if trained and scale is None else {}
    return {**facts, "asked": fingerprint(*_asked(bench))}


def _seen(bench: Workbench) -> Facts:
    """Prompts that the model was fine-tuned on, told and recorded."""
    settings, most = bench.config.evaluation, bench.config.data.max_row_bytes
    asked = asked_prompts(settings, most)
    counts = seen_prompts(asked, (row["messages"] for row in stored_rows(bench.layout.rows("custom"), ["messages"])))
    for told in seen_told(counts):
        bench.reporter.say(told)
    return {"prompts_seen": counts} if counts else {}


def _measured(bench: Workbench, trained: bool, scale: float) -> AbstractContextManager[Any]:
    from tosslm.model.adapters import attached_adapters

    return attached_adapters(bench.base, {MODEL: bench.layout.model}, scale=scale) if trained else nullcontext()
