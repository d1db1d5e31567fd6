"""Who reads rows under the references: this process, or what stands in for it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tosslm.workbench import Workbench

Rows = Sequence[Mapping[str, Any]]
Advance = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Reading:
    """References that can be asked.

    Attributes:
        losses: of rows, under the adapter of a name; as ``response_losses``.
        facts: of who reads, for the manifest.
    """

    losses: Callable[[str, Rows, Advance], list[np.ndarray]]
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Places:
    """Where a process that scores may put what is not scores.

    Attributes:
        work: a folder of the step's own, for what is gone afterwards.
        server_log: what a server says.
    """

    work: Path
    server_log: Path


@contextmanager
def reading(bench: Workbench, adapters: Mapping[str, Path]) -> Iterator[Reading]:
    """This process reads, with the references attached to their base."""
    from tosslm.model.adapters import attached_adapters
    from tosslm.model.losses import response_losses

    with attached_adapters(bench.reference_base, dict(adapters)) as model:

        def losses(adapter: str, rows: Rows, advance: Advance) -> list[np.ndarray]:
            model.set_adapter(adapter)
            return response_losses(model, rows, batch_tokens=bench.config.scoring.batch_tokens, advance=advance)

        yield Reading(losses)


def sample_rows(ids: Sequence[str], seed: int, count: int) -> dict[str, int]:
    """As many rows, chosen by seed and row id alone, in whatever order they come; all where there are fewer.

    Returns:
        The number of each chosen row, from 0, by its id.
    """

    def drawn(number: int) -> bytes:
        return hashlib.sha256(f"{seed} {ids[number]}".encode()).digest()

    return {ids[number]: number for number in sorted(range(len(ids)), key=drawn)[:count]}
