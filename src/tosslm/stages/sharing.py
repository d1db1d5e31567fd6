"""Tokenising and scoring by several processes at once: what one of them does, and when it may."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from tosslm.errors import InputError
from tosslm.files import make_folder
from tosslm.progress import logged
from tosslm.runs.folder import RunFolder
from tosslm.runs.layout import Layout, scores
from tosslm.runs.reader import Run
from tosslm.runs.recorded import Mark
from tosslm.runs.staged import at_work, clear_stage, make_stage
from tosslm.stages.blocks import ROWS_PER_BLOCK
from tosslm.stages.data_share import data_share
from tosslm.stages.score import score_share
from tosslm.stages.shard import Shard
from tosslm.stages.step import Facts, Step
from tosslm.workbench import Workbench


def data_next(bench: Workbench, step: Step, shard: Shard, rows_per_block: int = ROWS_PER_BLOCK) -> dict[str, Any]:
    """Do a shard's share of the data, where they are not done, without being the run's writer.

    Args:
        bench: of the run, whose folder need not be there.
        step: the data's.
        shard: which share.
        rows_per_block: as ``step`` has it.

    Returns:
        As ``shares.data_shard``.

    Raises:
        InputError: data are wrong.
    """
    layout, mark = bench.layout, step.mark(bench)
    if bench.folder.is_done(mark):
        bench.reporter.say(f"{mark.name}: done before; shard {shard} has nothing to do")
        clear_stage(layout, mark.name)
        return _nothing(shard)
    if mark.name in bench.folder.stages:
        bench.reporter.say(f"{mark.name}: made anew, as {bench.folder.what_changed(mark)}")
    with _at_work(bench, mark, layout.shard_log(shard.index, shard.count)) as bench:
        facts = data_share(bench, mark, shard, rows_per_block)
        bench.reporter.say(_told(mark, shard, facts, "`toss run` or `toss data`"))
    return {"step": mark.name, "shard": str(shard), **facts}


def score_next(bench: Workbench, steps: Sequence[Step], shard: Shard) -> dict[str, Any]:
    """Do a shard's share of the first scores that are not done, without being the run's writer.

    Nothing is trained and nothing recorded: eight machines that all began with the references would train them eight
    times.

    Args:
        bench: of the run.
        steps: of the run, in order, up to the last scores.
        shard: which share.

    Returns:
        As ``shares.score_shard``.

    Raises:
        InputError: what is to be scored is not prepared, or was prepared with another config, data, base or dtype.
    """
    rounds = {scores(round_): round_ for round_ in range(bench.config.refinement.rounds + 1)}
    if bench.config.scoring.engine == "ray":
        raise InputError(
            "--shard is for sharing by hand, and scoring.engine: ray has Ray share; leave out --shard, or --set "
            "scoring.engine=local (and workers and gpus_per_worker to auto, where they are set)"
        )
    if not any(step.name in rounds for step in steps):
        raise InputError("--shard: the config's method needs no scores, so there is nothing to share")
    step = _next(bench, steps, rounds, shard)
    if step is None:
        return _nothing(shard)
    mark = step.mark(bench)
    _check_config(bench, step, mark)
    _check_device(os.environ, str(bench.config.model.device))
    facts = do_share(bench, rounds[step.name], mark, shard, bench.layout.shard_log(shard.index, shard.count))
    return {"step": step.name, "shard": str(shard), **facts}


def do_share(bench: Workbench, round_: int, mark: Mark, shard: Shard, log: Path) -> Facts:
    """Write a shard's share of a round that may be scored, beside others at work.

    Args:
        bench: of the run.
        round_: which round.
        mark: of its scores.
        shard: which share.
        log: a file for what is said meanwhile.

    Returns:
        As ``score_share``.
    """
    with _at_work(bench, mark, log) as bench:
        facts = score_share(bench, round_, mark, shard)
        bench.reporter.say(_told(mark, shard, facts, "`toss run` or `toss score`"))
    return facts


@contextmanager
def _at_work(bench: Workbench, mark: Mark, log: Path) -> Iterator[Workbench]:
    """Write files of a step beside the run, and what is said meanwhile into a log."""
    layout = bench.layout
    make_folder(layout.root, mode=0o700)
    make_stage(layout, mark)
    log.parent.mkdir(mode=0o700, exist_ok=True)
    with at_work(layout), logged(bench.reporter, log) as reporter:
        yield replace(bench, reporter=reporter)
    _leave(layout, mark)


def _told(mark: Mark, shard: Shard, facts: Facts, takers: str) -> str:
    return (
        f"{mark.name}, shard {shard}: {facts['written']} of {facts['files']} files written, the others were there; "
        f"{takers} without --shard takes them"
    )


def _nothing(shard: Shard) -> dict[str, Any]:
    return {"step": None, "shard": str(shard), "files": 0, "written": 0, "tokens": 0}


def _next(bench: Workbench, steps: Sequence[Step], rounds: Mapping[str, int], shard: Shard) -> Step | None:
    """The first scores that are not done; None where there are none whose turn it is."""
    scored = ""
    for number, step in enumerate(steps):
        mark = step.mark(bench)
        if bench.folder.is_done(mark):
            if step.name in rounds:
                scored = step.name
                clear_stage(bench.layout, scored)
            continue
        if step.name in rounds:
            return step
        last = next(before.name for before, then in pairwise(steps[number:]) if then.name in rounds)
        if not scored or step.name in bench.folder.stages:
            raise InputError(_unprepared(bench, mark, last if scored else "references"))
        bench.reporter.say(
            f"{scored}: done before; shard {shard} has nothing to do until `toss run --until {last}` has trained that"
        )
        return None
    bench.reporter.say(f"{scored}: done before; shard {shard} has nothing to do")
    return None


def _unprepared(bench: Workbench, mark: Mark, until: str) -> str:
    known = bench.folder.stages.get(mark.name)
    if known is None:
        reason = "is not there yet"
    elif known["fingerprint"] != mark.fingerprint:
        reason = "was made with another config, other data, or another base or dtype than this process has"
    else:
        reason = f"is damaged ({', '.join(bench.folder.damaged(mark.name))})"
    return (
        f"{bench.layout.root}: {mark.name} {reason}, and a shard only scores. Let one process prepare the run, "
        f"`toss run CONFIG --until {until}`, and give all shards that config"
    )


def _check_config(bench: Workbench, step: Step, mark: Mark) -> None:
    """Refuse another config than the folder's: what the shard wrote would not be taken, and nobody would say so."""
    recorded = Run(bench.layout.root).config
    if step.mark(replace(bench, config=recorded)).fingerprint == mark.fingerprint:
        return
    here, there = (config.scoring.covered() for config in (bench.config, recorded))
    differing = [
        f"scoring.{key} is {here[key]} here and {there[key]} there" for key in here if here[key] != there[key]
    ]
    raise InputError(
        f"{bench.layout.root}: its config would give other scores ({'; '.join(differing) or step.name}); give all "
        "shards the folder's config, or take this one over with `toss run CONFIG --until references`"
    )


def _check_device(environment: Mapping[str, str], device: str) -> None:
    """A process takes the first accelerator that it sees, so all of one machine must not see the same ones.

    Raises:
        InputError: they do.
    """
    import torch

    local = next((name for name in ("LOCAL_RANK", "SLURM_LOCALID") if environment.get(name, "0") != "0"), None)
    if local and device != "cpu" and torch.cuda.device_count() > 1:
        raise InputError(
            f"--shard: process {environment[local]} of this machine sees {torch.cuda.device_count()} GPUs and would "
            f"take the first, as the others do; give each its own with CUDA_VISIBLE_DEVICES=${local}"
        )


def _leave(layout: Layout, mark: Mark) -> None:
    """A shard that was late leaves nothing behind; who is the last one at work cleans up."""
    if RunFolder(layout.root).is_done(mark):
        clear_stage(layout, mark.name)
