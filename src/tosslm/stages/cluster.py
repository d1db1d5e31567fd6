"""A Ray cluster: the one that RAY_ADDRESS names, else one on this machine for as long as it is needed."""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from tosslm.errors import InputError, first_line

_STORE_BYTES = 100 * 2**20
"""Of the object store of a local cluster: orders and counts go through it, no data."""

_ANSWER_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Needs:
    """What a worker takes of its machine.

    Attributes:
        cpus: threads of PyTorch, or one where the GPU does the work.
        gpus: 0 or 1.
    """

    cpus: int
    gpus: int

    def places(self, machines: Iterable[Mapping[str, float]]) -> int:
        """How many workers machines have room for, if nobody else is there.

        Args:
            machines: of each its ``CPU`` and ``GPU``, as Ray counts them.

        Examples:
            >>> Needs(cpus=2, gpus=1).places([{"CPU": 8, "GPU": 2}, {"CPU": 3, "GPU": 4}, {"CPU": 64}])
            3
        """
        return sum(self._of(machine) for machine in machines)

    def _of(self, machine: Mapping[str, float]) -> int:
        by_cpu = int(machine.get("CPU", 0) // self.cpus)
        return min(by_cpu, int(machine.get("GPU", 0) // self.gpus)) if self.gpus else by_cpu


def check_ray() -> None:
    """Refuse at the door where Ray is not installed.

    Raises:
        InputError: it is not, or RAY_ADDRESS is of a client, for which nothing here was tried.
    """
    try:
        import ray  # noqa: F401
    except ImportError as error:
        raise InputError(
            f'scoring.engine: ray cannot be imported ({error}); install it: pip install "tosslm[ray]", or set '
            "engine: local"
        ) from None
    if os.environ.get("RAY_ADDRESS", "").startswith("ray://"):
        raise InputError(
            "RAY_ADDRESS: a Ray Client (ray://) is not supported; start toss on a machine of the cluster, with "
            "RAY_ADDRESS=auto or HOST:6379"
        )


@contextmanager
def connected(*, cpus: int) -> Iterator[None]:
    """Be a driver of the cluster while the block runs; one that is connected already stays so.

    Args:
        cpus: that a cluster on this machine is to have at least.

    Raises:
        InputError: Ray is not installed; no cluster answers at RAY_ADDRESS, or one of another version.
    """
    check_ray()
    import ray

    if ray.is_initialized():
        yield
        return
    address = os.environ.get("RAY_ADDRESS")
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if not address:
        # A cluster that is started here does not tell Ray's makers of it.
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        have = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        options |= {"num_cpus": max(cpus, have), "include_dashboard": False, "object_store_memory": _STORE_BYTES}
    elif address != "auto":
        _check_answer(address)
    try:
        with _own_signals():
            ray.init(address=address or "local", **options)
    except (ConnectionError, RuntimeError, ValueError) as error:
        ray.shutdown()
        where = f"RAY_ADDRESS: {address}" if address else "a Ray cluster on this machine"
        raise InputError(
            f"{where}: no connection ({first_line(error)}); see `ray status`, or set scoring.engine: local"
        ) from error
    try:
        yield
    finally:
        ray.shutdown()


def _check_answer(address: str) -> None:
    """Ray by itself would try for minutes.

    Raises:
        InputError: nobody answers.
    """
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_ANSWER_SECONDS).close()
    except (OSError, ValueError, OverflowError) as error:
        raise InputError(
            f"RAY_ADDRESS: {address}: no connection ({error}); name HOST:PORT of a cluster's head, 6379 by default, "
            "or auto on one of its machines"
        ) from error


@contextmanager
def _own_signals() -> Iterator[None]:
    """Ray takes SIGTERM for itself, by which this process would end at once."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def machines() -> list[dict[str, float]]:
    """CPUs and GPUs of the machines that are in the cluster now."""
    import ray

    return [dict(node["Resources"]) for node in ray.nodes() if node["Alive"]]
