"""Scoring by workers of Ray: starts them, deals shares to them, and does without those that are gone."""

from __future__ import annotations

import secrets
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tosslm.errors import InputError, TosslmError, first_line
from tosslm.files import write_text
from tosslm.progress import Task
from tosslm.runs.layout import HELDOUT
from tosslm.runs.recorded import Mark
from tosslm.runs.staged import make_stage
from tosslm.runs.tables import part_name
from tosslm.stages.cluster import Needs, connected, machines
from tosslm.stages.dealing import Deal, cut_shares
from tosslm.stages.score import is_written, part_sizes
from tosslm.stages.shard import Shard
from tosslm.stages.worker import MARKER, Order, ScoringWorker
from tosslm.workbench import Workbench

_POLL_SECONDS = 0.5
_PATIENCE = 60.0
"""Seconds without any worker, and without room for one, after which this process does the rest by itself."""


def score_on_ray(bench: Workbench, round_: int, mark: Mark) -> dict[str, int]:
    """Have workers write what a round's scores still lack, for the run's writer to take.

    What they leave, since they died too often or there is no room for them any more, is the caller's to do.

    Returns:
        ``tokens`` that workers read, and how many ``workers`` there were at most; nothing where all is there.

    Raises:
        InputError: no cluster, no room for a worker, or a worker does not see what this process sees.
        TosslmError: a worker failed.
    """
    layout, sizes = bench.layout, part_sizes(bench)
    names = [*map(part_name, range(len(sizes))), HELDOUT]
    missing = {number for number, name in enumerate(names) if not is_written(layout, mark, name)}
    if not missing:
        return {}
    from tosslm.model.base import let_go

    # Workers on this machine need the memory that the base has had for the references.
    let_go(bench.reference_base, bench.base)
    needed, threads = bench.config.scoring.workers, _threads()
    with connected(cpus=threads * (1 if needed == "auto" else needed)):
        needs = _needs(bench, threads)
        wanted = needs.places(machines()) if needed == "auto" else needed
        count = cut_shares(len(names), max(wanted, 1))
        shares = [share for share in (Shard(i, count) for i in range(count)) if any(map(share.has, missing))]
        crew = _Crew(bench, needs, _order(bench, round_, mark, needs, threads), Deal(shares))
        rows = {number: sizes[number] for number in missing if number < len(sizes)}
        passes = 1 if round_ else 2
        try:
            with bench.reporter.task(
                f"scoring {layout.of(mark.name).name} on Ray", sum(rows.values()) * passes
            ) as task:
                crew.work({s: passes * sum(n for i, n in rows.items() if s.has(i)) for s in shares}, task)
        finally:
            crew.dismiss()
    if crew.deal.left:
        bench.reporter.say(f"{len(crew.deal.left)} of {len(shares)} shares are left to this process")
    return {"tokens": crew.tokens, "workers": crew.most}


def _threads() -> int:
    import torch

    return torch.get_num_threads()


def _needs(bench: Workbench, threads: int) -> Needs:
    """What a worker takes, where there is a machine that has it.

    Raises:
        InputError: there is none.
    """
    scoring, found = bench.config.scoring, machines()
    gpus = scoring.gpus_per_worker
    if gpus == "auto":
        gpus = int(
            not bench.config.model.device.startswith("cpu") and any(machine.get("GPU", 0) >= 1 for machine in found)
        )
    needs = Needs(1 if gpus else threads, gpus)
    if not needs.places(found):
        has = ", ".join(f"{m.get('CPU', 0):g} CPUs and {m.get('GPU', 0):g} GPUs" for m in found) or "nothing"
        raise InputError(
            f"scoring.engine: ray: a worker takes {needs.cpus} CPUs (this process's threads, on which bytes depend) "
            f"and {needs.gpus} GPUs of one machine, and those of the cluster have {has}; set OMP_NUM_THREADS for "
            "fewer threads, or scoring.gpus_per_worker"
        )
    return needs


def _order(bench: Workbench, round_: int, mark: Mark, needs: Needs, threads: int) -> Order:
    token = secrets.token_hex(8)
    write_text(make_stage(bench.layout, mark) / MARKER, token)
    folder = str(Path(bench.config.run_dir).absolute())
    config = bench.config.model_dump(mode="json") | {"run_dir": folder}
    identity = bench.reference_base.identity
    return Order(config, str(Path.cwd()), token, round_, mark.fingerprint, identity, threads, needs.gpus)


@dataclass
class _Crew:
    """The workers of one round.

    Attributes:
        bench: of the run.
        needs: of a worker.
        order: what all are told.
        deal: shares to be done.
        tokens: read by workers so far.
        most: workers at a time, of those that could work.
    """

    bench: Workbench
    needs: Needs
    order: Order
    deal: Deal
    tokens: int = 0
    most: int = 0
    _hired: int = 0
    _opening: dict[Any, Any] = field(default_factory=dict)  # Ray's reference of an answer, to the worker
    _working: dict[Any, tuple[Any, Shard]] = field(default_factory=dict)
    _idle: list[Any] = field(default_factory=list)

    def work(self, rows: dict[Shard, int], task: Task) -> None:
        """Have all shares done.

        Args:
            rows: of each share, times how often they are read.
            task: told of what is done.
        """
        import ray

        last = time.monotonic()
        while self.deal.unfinished:
            self._hire()
            self._hand_out()
            waiting = [*self._opening, *self._working]
            done = ray.wait(waiting, timeout=_POLL_SECONDS)[0] if waiting else []
            task.advance(0, 0)  # where Ctrl-C is heard
            for answer in done:
                self._hear(answer, rows, task)
            if self._working or self._idle:
                last = time.monotonic()
            elif time.monotonic() - last > _PATIENCE and not self.needs.places(machines()):
                self.bench.reporter.say("the cluster has had no room for a worker for a minute")
                self.deal.stop()

    def dismiss(self) -> None:
        """End all workers, whatever they are at."""
        import ray

        for worker in (*self._opening.values(), *(worker for worker, _ in self._working.values()), *self._idle):
            ray.kill(worker)

    def _hire(self) -> None:
        """As many workers as are wanted now; those for which Ray has no room yet wait for it there."""
        import ray

        needed = self.bench.config.scoring.workers
        wanted = self.needs.places(machines()) if needed == "auto" else needed
        there = len(self._opening) + len(self._working) + len(self._idle)
        for _ in range(min(wanted, self.deal.unfinished) - there):
            actor = ray.remote(num_cpus=self.needs.cpus, num_gpus=self.needs.gpus)(ScoringWorker)
            worker = actor.remote(self.order, self._hired)
            self._hired += 1
            self._opening[worker.open.remote()] = worker

    def _hand_out(self) -> None:
        while self._idle and (share := self.deal.next()):
            worker = self._idle.pop()
            self._working[worker.score.remote(share)] = worker, share
        self.most = max(self.most, len(self._working))

    def _hear(self, answer: Any, rows: dict[Shard, int], task: Task) -> None:
        import ray

        worker, share = self._working.pop(answer, (None, None))
        worker = worker or self._opening.pop(answer)
        try:
            facts = ray.get(answer)
        except ray.exceptions.RayTaskError as error:
            raise _as_ours(error) from error
        except ray.exceptions.RayError as error:
            ray.kill(worker)  # one that is merely out of reach is not to hold its place
            self.deal.lost(share)
            what = f"with share {share}" if share else "before it could work"
            self.bench.reporter.say(f"a Ray worker is gone {what}: {first_line(error)}")
            return
        self._idle.append(worker)
        if share:
            self.deal.done()
            self.tokens += facts["tokens"]
            self._hand_out()  # so that nobody waits for what is told
            task.advance(rows[share], facts["tokens"])


def _as_ours(error: Any) -> TosslmError:
    """What a worker raised, for the user; Ray's own error, its cause, tells where."""
    cause = error.cause
    if isinstance(cause, TosslmError):
        return InputError(str(cause)) if isinstance(cause, InputError) else TosslmError(str(cause))
    return TosslmError(f"a Ray worker failed: {type(cause).__name__}: {cause} (--debug shows where)")
