"""A step is a value: what it is called, reads and covers, and the function that does it. A stage makes some."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tosslm.config import Config
from tosslm.methods.method import Method
from tosslm.runs.recorded import Mark
from tosslm.workbench import Workbench

Facts = Mapping[str, Any]


def _nothing(bench: Workbench) -> list[Any]:
    return []


@dataclass(frozen=True, slots=True)
class Step:
    """A unit of work that is skipped where it is done.

    Attributes:
        name: the key in the manifest, and what it writes in the run folder unless ``writes`` says otherwise.
        stage: the stage it belongs to, one of ``pipeline.STAGES``.
        version: raised when what it computes or writes changes, so that older folders do it anew.
        reads: the steps whose output it reads.
        work: does it, and gives facts for the manifest.
        covers: what it depends on beside the steps it reads, JSON-able.
        writes: files or folders, relative to the run folder.
        join: what the other processes of a launcher do while the first is at it, given its folder of unfinished
            work; None where the first works alone.
    """

    name: str
    stage: str
    version: int
    reads: tuple[str, ...]
    work: Callable[[Workbench, Mark], Facts]
    covers: Callable[[Workbench], list[Any]] = _nothing
    writes: tuple[str, ...] = ()
    join: Callable[[Workbench, Path], None] | None = None

    def mark(self, bench: Workbench) -> Mark:
        """What the step is known by, once the steps it reads are done."""
        return bench.folder.mark(self.name, self.version, self.covers(bench), self.reads, self.writes or (self.name,))


@dataclass(frozen=True, slots=True)
class Stage:
    """What a user names: a command, and where ``--until`` stops.

    Attributes:
        name: of the stage.
        writes: what its steps write at the top of a run folder; what stands there already must be a run's own.
        steps: what it does for a config and its method, given the steps before it; nothing where the method has no
            need of it.
    """

    name: str
    writes: tuple[str, ...]
    steps: Callable[[Config, Method, Sequence[Step]], Sequence[Step]]
