"""Which share of a run's scoring a process does: named by hand, or told by what started the process."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from tosslm.errors import InputError

_BY_HAND = "name it yourself: --shard I/N, with I from 0 to N-1"


@dataclass(frozen=True, slots=True)
class Shard:
    """Share ``index`` of ``count``, counted from 0.

    Every file of a round's scores has a number, and one shard: who does what depends on these two alone, so shards
    need not speak with each other.
    """

    index: int
    count: int

    def has(self, number: int) -> bool:
        """Whether the file of this number is the shard's to write."""
        return number % self.count == self.index

    @property
    def server_name(self) -> str:
        """The server that scores for it."""
        return f"server-{self.index}-of-{self.count}"

    def __str__(self) -> str:
        """As `toss score --shard` takes it."""
        return f"{self.index}/{self.count}"


def parse_shard(text: str, environment: Mapping[str, str]) -> Shard:
    """A shard as `toss score --shard` takes it: ``2/8``, or ``auto``, what torchrun or Slurm say of this process.

    Raises:
        InputError: it is none; or with ``auto`` the environment names no shard, or names two.
    """
    if text == "auto":
        return _told(environment)
    found = re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", text)
    if found is None:
        raise InputError(f"--shard {text}: is no share; write I/N, such as 2/8, with I from 0 to N-1, or auto")
    return _checked(int(found[1]), int(found[2]), f"--shard {text}")


def _told(environment: Mapping[str, str]) -> Shard:
    ways = {
        "RANK/WORLD_SIZE": _torchrun,
        "SLURM_ARRAY_TASK_ID": _slurm_array,
        "SLURM_PROCID/SLURM_NTASKS": _slurm_task,
    }
    said = {name: shard for name, way in ways.items() if (shard := way(environment)) is not None}
    if not said:
        raise InputError(
            "--shard auto: neither torchrun (RANK, WORLD_SIZE) nor Slurm (SLURM_ARRAY_TASK_ID, or SLURM_PROCID and "
            f"SLURM_NTASKS) says which share this process has; {_BY_HAND}"
        )
    # "The only process of its kind" is what Slurm says of every task of an array, and of what starts torchrun.
    several = {name: shard for name, shard in said.items() if shard.count > 1} or said
    if len(set(several.values())) > 1:
        listed = " and ".join(f"{name} ({shard})" for name, shard in several.items())
        raise InputError(f"--shard auto: {listed} disagree; {_BY_HAND}")
    return next(iter(several.values()))


def _torchrun(environment: Mapping[str, str]) -> Shard | None:
    return _pair(environment, "RANK", "WORLD_SIZE")


def _slurm_task(environment: Mapping[str, str]) -> Shard | None:
    # SLURM_PROCID by itself stands in every batch script that asks for no tasks, each job of an array too, and
    # SLURM_NTASKS may be all that is left of one that asked for some.
    if not {"SLURM_PROCID", "SLURM_NTASKS"} <= environment.keys():
        return None
    return _pair(environment, "SLURM_PROCID", "SLURM_NTASKS")


def _slurm_array(environment: Mapping[str, str]) -> Shard | None:
    """Tasks of an array have ids from any number on, in steps: ``--array=1-15:2`` has eight."""
    if "SLURM_ARRAY_TASK_ID" not in environment:
        return None
    task, first, count = (_number(environment, f"SLURM_ARRAY_TASK_{name}") for name in ("ID", "MIN", "COUNT"))
    step = _number(environment, "SLURM_ARRAY_TASK_STEP") if "SLURM_ARRAY_TASK_STEP" in environment else 1
    index, beside = divmod(task - first, max(step, 1))
    if beside or not 0 <= index < count:
        raise InputError(
            f"--shard auto: SLURM_ARRAY_TASK_ID={task} has no place among {count} tasks from {first} on, as of an "
            f"array with gaps; {_BY_HAND}"
        )
    return Shard(index, count)


def _pair(environment: Mapping[str, str], index: str, count: str) -> Shard | None:
    if index not in environment and count not in environment:
        return None
    return _checked(_number(environment, index), _number(environment, count), f"--shard auto: {index}/{count}")


def _number(environment: Mapping[str, str], name: str) -> int:
    text = environment.get(name, "")
    if not re.fullmatch(r"[0-9]{1,9}", text):
        raise InputError(f"--shard auto: {name} is {text!r} and not a number; {_BY_HAND}")
    return int(text)


def _checked(index: int, count: int, name: str) -> Shard:
    if index >= count:
        raise InputError(f"{name}: shard {index} of {count} is none; I runs from 0 to N-1, and N is at least 1")
    return Shard(index, count)
