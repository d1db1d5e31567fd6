"""What a worker of Ray does: it holds a model, and writes shares of scores, as `toss score --shard` does."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tosslm.config import load_config
from tosslm.errors import InputError
from tosslm.progress import SilentReporter
from tosslm.runs.layout import Layout, scores
from tosslm.stages.shard import Shard

if TYPE_CHECKING:
    from tosslm.runs.recorded import Mark
    from tosslm.workbench import Workbench

MARKER = "workers-look-here"


@dataclass(frozen=True, slots=True)
class Order:
    """What the process that does the run tells its workers.

    Attributes:
        config: the run's, as a tree; ``run_dir`` absolute.
        working_folder: what its other paths are relative to.
        token: stands in the file `MARKER` beside the shards' files, to be found there.
        round_: which to score.
        fingerprint: of the round's scores.
        identity: of the model that scores: its files and its dtype.
        threads: of PyTorch on the CPU, on which bytes depend.
        gpus: that the worker has, 0 or 1.
        patience: seconds in which a network file system is to show on one machine what was written on another.
    """

    config: dict[str, Any]
    working_folder: str
    token: str
    round_: int
    fingerprint: str
    identity: str
    threads: int
    gpus: int
    patience: float = 30.0


def _check_device(order: Order, device: str) -> None:
    """Refuse a worker that was lent a GPU and would compute on the CPU.

    Raises:
        InputError: names the machine.
    """
    from tosslm.model.device import choose_device

    if order.gpus and choose_device(device).type == "cpu":
        raise InputError(
            f"scoring.engine: ray: the worker on {platform.node()} was lent a GPU, and PyTorch sees none there (its "
            "driver, or a build of PyTorch for CPUs); mend that machine, or leave it out"
        )


class ScoringWorker:
    """One model in a process of Ray's, an actor.

    Args:
        order: what to score.
        number: of the worker, from 0, for its log.
    """

    def __init__(self, order: Order, number: int) -> None:
        self._order, self._number = order, number
        self._ready: tuple[Workbench, Mark] | None = None

    def open(self) -> None:
        """Find folder, base and references, and see that they are those of the run.

        Raises:
            InputError: they are not, or cannot be seen from this machine.
        """
        order = self._order
        if not order.gpus:
            os.environ["CUDA_VISIBLE_DEVICES"] = ""  # what Ray did not lend is not taken
        with suppress(OSError):  # where it is not there, relative paths are not found, which is said then
            os.chdir(order.working_folder)
        self._see_folder()
        import torch

        torch.set_num_threads(order.threads)
        self._ready = self._prepared()

    def score(self, shard: Shard) -> dict[str, Any]:
        """Write a shard's share.

        Returns:
            As ``score_share``.
        """
        from tosslm.stages.sharing import do_share

        assert self._ready is not None
        bench, mark = self._ready
        return dict(do_share(bench, self._order.round_, mark, shard, bench.layout.worker_log(self._number)))

    def _see_folder(self) -> None:
        order = self._order
        folder = Path(order.config["run_dir"])
        marker = Layout(folder).staged(scores(order.round_), order.fingerprint) / MARKER
        if not _in_time(order.patience, lambda: _text_of(marker) == order.token):
            raise InputError(
                f"scoring.engine: ray: the worker on {platform.node()} does not see the run folder {folder} as the "
                "process that does the run sees it; put it on storage that all machines of the cluster share, at "
                "the same path, or leave this machine out"
            )

    def _prepared(self) -> tuple[Workbench, Mark]:
        from tosslm.stages.score import score_step
        from tosslm.workbench import open_workbench

        order = self._order
        config = load_config(order.config)
        _check_device(order, config.model.device)
        step = score_step(config, order.round_)
        bench = open_workbench(config, SilentReporter())
        if bench.reference_base.identity != order.identity:
            raise InputError(
                f"scoring.engine: ray: the base on {platform.node()} is another than that of the process that does "
                "the run: other files, or another dtype, which model.dtype: auto chooses by the device; name a "
                "dtype, and give all machines the same files"
            )
        if not _in_time(order.patience, lambda: step.mark(_read_again(bench)).fingerprint == order.fingerprint):
            raise InputError(
                f"scoring.engine: ray: {platform.node()} would give other scores than the process that does the run; "
                "install the same version of tosslm on all machines of the cluster"
            )
        bench = _read_again(bench)
        return bench, step.mark(bench)


def _read_again(bench: Workbench) -> Workbench:
    """The same with what the manifest says now."""
    from tosslm.runs.folder import RunFolder

    return replace(bench, folder=RunFolder(bench.layout.root))


def _in_time(seconds: float, seen: Callable[[], bool]) -> bool:
    end = time.monotonic() + seconds
    while not seen():
        if time.monotonic() > end:
            return False
        time.sleep(0.5)
    return True


def _text_of(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        return ""
