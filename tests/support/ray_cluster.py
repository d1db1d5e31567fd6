"""A Ray cluster of several nodes on this machine, and what tests do to it."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tosslm.progress import SilentReporter, Task

NEEDED = "TOSSLM_NEED_RAY"
BEGINS = (".open", ".__init__")


def need_ray() -> None:
    """Skip a test where Ray is not installed, or fail it where that was promised."""
    try:
        import ray  # noqa: F401
    except ImportError:
        if os.environ.get(NEEDED):
            pytest.fail(f"no Ray here, and {NEEDED} is set: `make ray` installs it")
        pytest.skip("no Ray here: scoring through it is not tested; `make ray` installs it and runs these tests")


@contextmanager
def two_nodes() -> Iterator[Any]:
    """``ray.cluster_utils.Cluster`` of two nodes with a CPU each."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        add_node(cluster)
        cluster.wait_for_nodes()
        yield cluster
    finally:
        cluster.shutdown()


def add_node(cluster: Any) -> Any:
    """A further node with a CPU."""
    return cluster.add_node(num_cpus=1)


def raylets(cluster: Any) -> set[int]:
    """Processes that start a node's workers."""
    nodes = [cluster.head_node, *cluster.worker_nodes]
    return {node.all_processes["raylet"][0].process.pid for node in nodes if node}


def workers(parents: set[int], *, at_work: bool = False) -> list[int]:
    """Children of some raylets that are scoring workers, by the title that Ray gives them.

    Args:
        parents: the raylets.
        at_work: only those that score, or have scored and wait for more.
    """
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            title = (process / "cmdline").read_text(encoding="utf-8", errors="replace")
            status = (process / "stat").read_text(encoding="utf-8", errors="replace")
        except OSError:  # it has ended meanwhile
            continue
        parent = int(status.rpartition(")")[2].split()[1])
        name = title.rstrip("\0").strip()
        if parent in parents and name.startswith("ray::ScoringWorker") and not (at_work and name.endswith(BEGINS)):
            found.append(int(process.name))
    return found


def bearers(name: str) -> list[int]:
    """Processes with an environment variable, of those that this one may look at."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if f"{name}=".encode() in (process / "environ").read_bytes():
                found.append(int(process.name))
        except OSError:
            continue
    return found


def kill(process: int) -> None:
    """End a process as a machine that fails would."""
    os.kill(process, signal.SIGKILL)


class ActingReporter(SilentReporter):
    """Does something once, when a first share has been done by workers; keeps what is said.

    Args:
        act: what to do.
    """

    def __init__(self, act: Callable[[], object]) -> None:
        self._act: Callable[[], object] | None = act
        self.said: list[str] = []
        self.tasks: dict[str, int] = {}
        self._task = ""

    @contextmanager
    def task(self, name: str, total: int) -> Iterator[Task]:
        """Notes how far each task came."""
        self._task = name
        self.tasks[name] = -total
        yield self

    def advance(self, steps: int, tokens: int, note: str = "") -> None:
        """Acts at the first steps of workers."""
        self.tasks[self._task] += steps
        if steps and "on Ray" in self._task and self._act:
            act, self._act = self._act, None
            act()

    def say(self, text: str) -> None:
        """Keeps it."""
        self.said.append(text)
