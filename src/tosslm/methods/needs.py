"""What methods need that a run by itself has not: a guard model, safe demonstrations, names of harmful sources."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tosslm.config import Config
from tosslm.data.rows import BadRow, Row, source_rows

if TYPE_CHECKING:
    from tosslm.workbench import Workbench


@dataclass(frozen=True, slots=True)
class Need:
    """Something that the config has to name, or to leave out.

    Attributes:
        remedy: what to write into the config, or out of it, and where.
        given: whether a config does.
    """

    remedy: str
    given: Callable[[Config], bool]


GUARD = Need(
    "name a guard model in compare.guard, as under evaluation.classifier",
    lambda config: config.compare.guard is not None,
)
SAFETY = Need(
    "name rows of safe answers to unsafe requests in compare.safety.path",
    lambda config: config.compare.safety is not None,
)
HARMFUL_SOURCES = Need(
    "name the sources that are harmful in compare.harmful_sources",
    lambda config: bool(config.compare.harmful_sources),
)
UNQUANTIZED = Need(
    "it makes layers of the base stronger and weaker, which weights in 4 bits do not allow: leave model.quantize out",
    lambda config: config.model.quantize is None,
)

UTILITY_SET = Need(
    "it reads the utility set's own rows: name one in data.utility.path in the place of data.utility.from",
    lambda config: not config.data.utility.of_custom,
)


def guard_parts(bench: Workbench) -> list[Any]:
    """What a result depends on that a guard has a part in."""
    guard = bench.config.compare.guard
    return [guard.model_dump(), bench.config.compare.guard_segment] if guard else []


def safety_parts(bench: Workbench) -> list[Any]:
    """What a result depends on that demonstrations have a part in."""
    from tosslm.data.sets import source_checksums

    safety = bench.config.compare.safety
    return [safety.model_dump(), source_checksums(safety)] if safety else []


def read_safety(config: Config) -> list[Row]:
    """Every readable row of ``compare.safety``, in order; none where the config names no such rows."""
    source = config.compare.safety
    if source is None:
        return []
    rows = source_rows(source, config.data.max_row_bytes, key="compare.safety")
    return [row for row in rows if not isinstance(row, BadRow)]
