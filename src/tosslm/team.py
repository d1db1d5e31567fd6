"""The processes that one launcher started for one run: the first does the run, the others join its trainings.

They speak through the launcher's own key-value store, which is there before the first of them and after the last. A
process that waits there waits as long as it takes: a scoring of hours times no collective out.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from tosslm.errors import InputError, TosslmError
from tosslm.launcher import heed_launcher

PATIENCE = timedelta(hours=2)
"""How long a process waits for the others within a training, where the first may be loading weights."""
_POLL_SECONDS = 0.1
_START = "start several processes with `accelerate launch` or `torchrun`"


@dataclass(frozen=True, slots=True)
class Place:
    """Which process this is of how many.

    Attributes:
        rank: from 0, the first.
        count: of processes.
    """

    rank: int
    count: int

    @property
    def leads(self) -> bool:
        """Whether this is the process that does the run."""
        return self.rank == 0

    def __str__(self) -> str:
        """For messages."""
        return f"process {self.rank} of {self.count}"


def place(environment: Mapping[str, str] = os.environ) -> Place:
    """What the launcher says of this process; without a launcher it is the only one.

    Raises:
        InputError: it says what cannot be.

    Examples:
        >>> str(place({"RANK": "1", "WORLD_SIZE": "2"})), place({})
        ('process 1 of 2', Place(rank=0, count=1))
    """
    said = environment.get("RANK", "0"), environment.get("WORLD_SIZE", "1")
    if not all(number.isdecimal() for number in said) or not int(said[0]) < int(said[1]):
        raise InputError(f"RANK is {said[0]!r} and WORLD_SIZE {said[1]!r}, which name no process; {_START}")
    return Place(int(said[0]), int(said[1]))


class OthersFailedError(TosslmError):
    """Another process of the team has failed, and said why."""


class Team:
    """This process among those of its launcher.

    Args:
        own: which it is.
        store: the launcher's key-value store, ``torch.distributed.Store``.

    Attributes:
        place: which it is.
        shards: whether models lie spread over the processes, rather than whole in each.
        joined: whether all processes are in the same work at present, and need no telling.
    """

    def __init__(self, own: Place, store: Any) -> None:
        self.place, self._store, self._orders = own, store, 0
        self.shards = self.joined = False

    @contextmanager
    def together(self) -> Iterator[None]:
        """A work that all processes do."""
        self.joined = True
        try:
            yield
        finally:
            self.joined = False

    def give(self, order: Mapping[str, str]) -> None:
        """Tell the others what to join; an empty order is the last."""
        self._store.set(f"order/{self._orders}", json.dumps(dict(order)))
        self._orders += 1

    def next_order(self, check: Callable[[], None]) -> dict[str, str]:
        """What to join next; empty at the end.

        Args:
            check: called while nothing is there; it may raise.

        Raises:
            OthersFailedError: the first process, or another, has failed.
        """
        key, start = f"order/{self._orders}", time.monotonic()
        while not self._store.check([key]):
            if self._store.check(["failed"]):
                raise OthersFailedError("another process has failed")
            check()
            # Orders may follow each other at the pace of forward passes: a wait is a tenth longer at most.
            time.sleep(min(_POLL_SECONDS, 0.0005 + (time.monotonic() - start) / 10))
        self._orders += 1
        order: dict[str, str] = json.loads(self._store.get(key))
        return order

    def fail(self, status: int) -> int | None:
        """Say that this process ends with a status.

        Returns:
            None where it is the first to say so, and should tell the user; else the status of the first.
        """
        if self._store.add("failed", 1) == 1:
            self._store.set("status", str(status))
            return None
        return int(self._store.get("status"))


_current: Team | None = None


def current() -> Team | None:
    """The team of this process; None where it works alone."""
    return _current


def connect() -> Team | None:
    """Find the others of this process's launcher; None where there is none.

    Raises:
        InputError: processes were started in a way that gives them no common store.
    """
    global _current
    own = place()
    if own.count == 1 or _current is not None:
        return _current
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        raise InputError(f"{own} was started by something that keeps no store for them; {_START}")
    from torch import distributed

    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    store = distributed.TCPStore(address, port, is_master=False, wait_for_workers=False)  # type: ignore[attr-defined]
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    _current = Team(own, distributed.PrefixStore(f"tosslm/{attempt}", store))  # type: ignore[attr-defined]
    return _current


def failed(status: int) -> int | None:
    """Say that this process ends with a status.

    Returns:
        None where it should tell the user why; else the status of the process that has.
    """
    if _current is not None:
        with suppress(RuntimeError):  # the launcher, and its store, may be gone
            return _current.fail(status)
    return None


def refuse_several() -> None:
    """Refuse a launcher of several processes, for what works in one.

    Raises:
        InputError: there are several.
    """
    own = place()
    if own.count > 1:
        with suppress(InputError):
            connect()
        raise InputError(f"this command works in one process, and {own.count} were started; leave out the launcher")


def assemble(*, cpu: bool) -> Team | None:
    """Make the process group that trainings work in, each process with a device of its own; None for one by itself.

    Args:
        cpu: whether processes train on the CPU, where an accelerator may be in sight.

    Raises:
        InputError: the launcher's config asks for what trainings here do not do.
    """
    sharded, team = heed_launcher(cpu=cpu), connect()
    if team is None:
        return None
    team.shards = sharded
    from accelerate import PartialState

    state = PartialState(cpu=cpu, timeout=PATIENCE)
    if state.num_processes != team.place.count:
        raise InputError(
            f"{team.place}: its device takes no process group; set model.device: cpu, or start one process"
        )
    return team


def leave() -> None:
    """Close the process group, where there is one."""
    if _current is None:
        return
    from torch import distributed

    if distributed.is_initialized():
        distributed.destroy_process_group()
