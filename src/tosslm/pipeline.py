"""The whole method, to be read against the paper (arXiv 2603.01185)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tosslm.config import Config, load_config
from tosslm.config.idle import idle_keys
from tosslm.door import (
    check_launcher,
    check_processes,
    check_rows,
    check_several,
    on_cpu,
)
from tosslm.errors import InputError, TosslmError
from tosslm.evaluation.gate import Gate, check_gates
from tosslm.files import make_private
from tosslm.findings.anchor import anchored_otherwise
from tosslm.findings.warnings import run_warnings
from tosslm.methods import settled
from tosslm.methods.method import Method
from tosslm.progress import Reporter, SilentReporter, logged
from tosslm.remote import is_url
from tosslm.runs.folder import RunFolder
from tosslm.runs.layout import DATA, MODEL
from tosslm.runs.reader import Run
from tosslm.runs.recorded import Mark
from tosslm.runs.results import read_results, read_scaled
from tosslm.runs.staged import clear_stage
from tosslm.stages.before import check_before, check_known, check_questions
from tosslm.stages.engine import check_engine
from tosslm.stages.purposes import PURPOSES
from tosslm.stages.step import Stage, Step
from tosslm.team import Team, assemble, connect, place
from tosslm.workbench import Workbench, open_workbench

if TYPE_CHECKING:
    from tosslm.model.sharded import Shards

STAGES: dict[str, Stage] = {name: import_module(f"tosslm.stages.{name}").STAGE for name in PURPOSES}
"""The method in the paper's order; each a command, and where ``--until`` stops."""


def steps(config: Config, method: Method) -> list[Step]:
    """What the stages do for a config: TOSS, TOSS-Pro where there are rounds, or what another method makes of it.

    Each step reads what steps before it wrote, and is named in the manifest as here.
    """
    found: list[Step] = []
    for stage in STAGES.values():
        found += stage.steps(config, method, found)
    return found


def outputs() -> tuple[str, ...]:
    """Names of a run folder that steps write; beside them lie what `toss compare` made, logs, and the user's own."""
    return tuple(dict.fromkeys(output for stage in STAGES.values() for output in stage.writes))


def run(
    config: Config | Mapping[str, Any] | str | Path,
    *,
    until: str = "report",
    fresh: bool = False,
    reporter: Reporter | None = None,
) -> Run:
    """TOSS, TOSS-Pro where ``refinement.rounds`` is not 0, or the config's ``method``; what is done is skipped.

    Args:
        config: a config, the same tree as a mapping, or a YAML file.
        until: the last stage to do, one of ``STAGES``, or the last step, by its name in the manifest.
        fresh: remove what earlier runs left in the run folder first.
        reporter: where progress goes.

    Returns:
        The run, for reading.

    Raises:
        InputError: config or data are wrong.
        TosslmError: the work failed.
    """
    config, method = settled(config if isinstance(config, Config) else load_config(config))
    every = steps(config, method)
    wanted = upto(every, until)
    check_several(config.run_dir, config.model.device)
    if method.step and any(step.stage == "finetune" for step in wanted):
        check_processes(method.name)
    if config.scoring.engine == "ray" and any(step.stage == "score" for step in wanted):
        check_engine(config)
    check_before(config, method, {step.stage for step in wanted})
    reporter, team = reporter or SilentReporter(), gather(config)
    if team is not None and not team.place.leads:
        join(wanted, workbench(config, reporter), team)
        return Run(config.run_dir, trust_remote_code=config.model.trust_remote_code)
    if fresh:
        check_rows(config)
    for told in idle_keys(config, scored=method.builds_on != "data", trains=method.trains):
        reporter.say(told)
    bench = workbench(config, reporter, fresh=fresh)
    check_scoring(wanted, bench)
    check_questions(wanted, bench)
    if team is not None:
        shared_out(bench, team)
    carry_out(wanted, bench, every=every)
    if team is not None:
        team.give({})
    return Run(bench.layout.root, trust_remote_code=config.model.trust_remote_code)


def upto(all_steps: Sequence[Step], last: str) -> list[Step]:
    """The steps up to a stage and with it, or up to one step, such as ``references/degraded/round-1``.

    Raises:
        InputError: there is neither.
    """
    names, order = [step.name for step in all_steps], list(STAGES)
    if last in order:
        return [step for step in all_steps if order.index(step.stage) <= order.index(last)]
    if last not in names:
        raise InputError(
            f"stage {last!r} is unknown; choose one of {', '.join(order)}, or a step of this run: {', '.join(names)}"
        )
    return list(all_steps[: names.index(last) + 1])


def check_folder(config: Config) -> None:
    """Refuse a run folder, on a disk, that holds what is no run's and a run would replace.

    Raises:
        InputError: names what stands there.
    """
    if not is_url(config.run_dir):
        RunFolder(Path(config.run_dir)).check_ours(outputs())


def check_scoring(wanted: Sequence[Step], bench: Workbench) -> None:
    """Refuse before anything is trained what could not score afterwards; nothing where all scores are there.

    Raises:
        InputError: as for ``check_engine``.
    """
    if any(step.name.startswith("scores/") and not bench.folder.is_current(step.name) for step in wanted):
        check_engine(bench.config)
        if bench.config.scoring.engine == "ray" and (count := place().count) > 1:
            raise InputError(
                f"scoring.engine: ray: {count} processes of a launcher hold the devices that Ray's workers need; "
                "score first, without the launcher (toss score), then launch the rest"
            )


workbench = open_workbench
"""Opens what the stages of a run are handed, see `tosslm.workbench.open_workbench`."""


def gather(config: Config) -> Team | None:
    """The other processes of this one's launcher, each with its device; None where there is none."""
    if connect() is None:
        check_launcher(config)
        return None
    return assemble(cpu=on_cpu(config))


def shared_out(bench: Workbench, team: Team) -> Shards | None:
    """Have the run's models spread over the processes of a launcher when they load; None where none asks for it."""
    if not team.shards:
        return None
    from tosslm.model.sharded import Shards

    return Shards(team, {base.keys.name: base for base in (bench.base, bench.reference_base)})


def join(wanted: Sequence[Step], bench: Workbench, team: Team) -> None:
    """Take part in what the first process of a launcher shares with the others, until it is done with its steps."""
    joins, shards = {step.name: step.join for step in wanted}, shared_out(bench, team)
    with bench.reporter.task("waiting", 0) as task:
        while order := team.next_order(lambda: task.advance(0, 0)):
            if shards and shards.follow(order):
                continue
            if order["step"] == MODEL and bench.proxy and not shards:  # as the first process has done
                from tosslm.model.base import let_go

                let_go(bench.proxy.base)
            if shared := joins[order["step"]]:
                shared(bench, Path(order["work"]))


def carry_out(wanted: Sequence[Step], bench: Workbench, *, every: Sequence[Step]) -> None:
    """Do what is not done yet of some steps, in their order, as the one writer of the run folder.

    Args:
        wanted: the steps.
        bench: what they are handed.
        every: all steps of the run; unfinished work of others is removed.
    """
    from tosslm.model.base import where_it_runs

    config, folder = bench.config, bench.folder
    with folder.lock(outputs(), say=bench.reporter.say), logged(bench.reporter, bench.layout.log) as reporter:
        bench = replace(bench, reporter=reporter)
        folder.forget_work([step.name for step in every])
        machine = where_it_runs(config.model) | {"processes": place().count}
        stored = folder.manifest.get("config", {}) if MODEL in folder.stages else {}
        if any(step.name == MODEL for step in wanted) and (told := anchored_otherwise(stored, config)):
            reporter.say(told)
        folder.begin(config.model_dump(mode="json"), config.seed, machine, [step.name for step in every])
        while not all_done(wanted, bench):
            reporter.say("a degraded reference has other weights now than elsewhere; what was made from it is redone")
        folder.warn(run_warnings(Run(bench.layout.root)))
        make_private(bench.layout.tracker_logs)


def all_done(wanted: Sequence[Step], bench: Workbench) -> bool:
    """Do what is not done, in order; False where it has to be gone through again.

    The folder's lock must be held. A degraded reference that was trained elsewhere, for a run folder at a URL, is
    trained anew only where a step that is not done reads it. With other weights than it had, steps that are done are
    so no longer.
    """
    folder = bench.folder
    for step in wanted:
        mark = step.mark(bench)
        if folder.is_withheld(mark):
            bench.reporter.say(
                f"{step.name}: removed since, or done elsewhere and never uploaded; trained again where it is needed"
            )
            continue
        taken = _taken_over(mark, bench)
        withheld = [one for one in wanted if one.name in mark.inputs and folder.withholds(one.name)]
        # A report tells of references, and reads none of their files.
        if withheld and step.stage != "report" and not folder.is_done(mark):
            before = [folder.print_of(one.name) for one in withheld]
            for one in withheld:
                again = one.mark(bench)
                folder.do(again, partial(one.work, bench, again), say=bench.reporter.say)
            if before != [folder.print_of(one.name) for one in withheld]:
                return False
        if not folder.do(mark, partial(step.work, bench, mark), say=bench.reporter.say) and not taken:
            bench.reporter.say(f"{step.name}: done before")
        clear_stage(bench.layout, step.name)
        if step.name == DATA:
            check_known(wanted, bench)
    return True


def _taken_over(mark: Mark, bench: Workbench) -> bool:
    """Take over a step that is not done from a run of the same comparison that has done the very same; said.

    One that was done here, and is damaged, is done again: to look at the bytes of all that is done would take time.
    """
    if bench.folder.stages.get(mark.name, {}).get("fingerprint") == mark.fingerprint:
        return False
    for path in _beside(bench):
        with suppress(TosslmError, OSError):  # what is no run's folder, or cannot be read, has nothing to take over
            if bench.folder.take_over(RunFolder(path), mark):
                bench.reporter.say(f"{mark.name}: the very same was done in {path}, and is taken over")
                return True
    return False


def _beside(bench: Workbench) -> list[Path]:
    """For a method of a comparison the run around it; for a run the methods that were compared with it."""
    comparison, layout = bench.config.compare.part_of, bench.layout
    if comparison:
        return [(layout.root / comparison).resolve().parent]
    return sorted(path.parent for path in layout.comparison.glob("*/*/manifest.json"))


def evaluate(config: Config, *, gates: Sequence[Gate] = (), reporter: Reporter | None = None) -> list[dict[str, Any]]:
    """The records of base and fine-tuned model, and of further scales; what they still miss is done first.

    Args:
        config: the config.
        gates: conditions on metrics, which have to be measured.
        reporter: where progress goes.

    Raises:
        InputError: the config names nothing to ask, or not what a gate is on, or as for ``run``.
        TosslmError: the work failed.
    """
    if not config.evaluation.asks:
        raise InputError(
            "evaluation: nothing to ask; name prompts, such as evaluation.harmful.path, or tasks of lm-eval"
        )
    whole, method = settled(config)
    check_gates(gates, whole.evaluation, held_out=whole.references.holdout > 0, compared=method.trains)
    layout = run(config, until="evaluate", reporter=reporter).layout
    return [*read_results(layout.results), *read_scaled(layout, config.evaluation.scales)]
