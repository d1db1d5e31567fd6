"""What methods need that a run by itself has not: a guard model, safe demonstrations, names of harmful sources."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tosslm.config import Config
from tosslm.data.rows import BadRow, Row, source_rows
from tosslm.errors import InputError
from tosslm.model.folders import local_folder, model_checksums

if TYPE_CHECKING:
    from tosslm.workbench import Workbench


@dataclass(frozen=True, slots=True)
class Need:
    """Something that the config has to name, or to leave out.

    Attributes:
        remedy: what to write into the config, or out of it, and where.
        given: whether a config does.
        find: raises InputError where what it names is not there, or cannot be read.
    """

    remedy: str
    given: Callable[[Config], bool]
    find: Callable[[Config], object] = lambda _: None


def read_safety(config: Config, say: Callable[[str], None] = lambda _: None) -> list[Row]:
    """Every row of ``compare.safety``, in order; none where the config names no such rows.

    Args:
        config: that names them.
        say: told how many bad rows ``data.on_bad_row: skip`` leaves out.

    Raises:
        InputError: a row is bad, and ``data.on_bad_row`` does not say to skip such; or none is left.
    """
    source = config.compare.safety
    if source is None:
        return []
    good, skipped = [], 0
    for row in source_rows(source, config.data.max_row_bytes, key="compare.safety"):
        if not isinstance(row, BadRow):
            good.append(row)
        elif config.data.on_bad_row == "error":
            raise InputError(
                f"compare.safety: {row.origin}: {row.reason}; {row.remedy} (data.on_bad_row: skip leaves it out)"
            )
        else:
            skipped += 1
    if skipped:
        say(f"compare.safety: {skipped:,} bad rows are left out")
    if not good:
        raise InputError("compare.safety: no row there that can be read")
    return good


def _find_guard(config: Config) -> None:
    if guard := config.compare.guard:
        local_folder("compare.guard.model", guard.model, guard.revision, False, weights=False)


GUARD = Need(
    "name a guard model in compare.guard, as under evaluation.classifier",
    lambda config: config.compare.guard is not None,
    _find_guard,
)
SAFETY = Need(
    "name rows of safe answers to unsafe requests in compare.safety.path",
    lambda config: config.compare.safety is not None,
    read_safety,
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
    """What a result depends on that a guard has a part in, the files of its model among it."""
    guard = bench.config.compare.guard
    if not guard:
        return []
    files = model_checksums("compare.guard.model", guard.model, guard.revision)
    return [guard.model_dump(), bench.config.compare.guard_segment, files]


def safety_parts(bench: Workbench) -> list[Any]:
    """What a result depends on that demonstrations have a part in."""
    from tosslm.data.sets import source_checksums

    safety = bench.config.compare.safety
    return [safety.model_dump(), source_checksums(safety)] if safety else []
