"""What could be won if one knew which rows, or which tokens, are harmful, and left out nothing else."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tosslm.characters import unsafe_tokens
from tosslm.config import Config
from tosslm.errors import InputError
from tosslm.files import read_batches
from tosslm.methods.material import Material
from tosslm.methods.method import Method, keep_rows
from tosslm.methods.needs import HARMFUL_SOURCES

if TYPE_CHECKING:
    from tosslm.workbench import Workbench

MARKED = "marked tokens"


def drop_harmful_sources(material: Material) -> np.ndarray:
    """Exactly the rows whose source is called harmful are dropped, however many; bool ``[N]``.

    Raises:
        InputError: no row has one of these sources.
    """
    harmful = material.harmful_sources
    _check_sources(harmful, set(material.sources))
    kept = np.fromiter((source not in harmful for source in material.sources), dtype=bool)
    return keep_rows(material, kept)


def _check_sources(harmful: Iterable[str], there: set[str]) -> None:
    if unknown := sorted(set(harmful) - there):
        raise InputError(
            f"compare.harmful_sources: no custom row has the source {unknown[0]!r}; there are: "
            f"{', '.join(sorted(there))}"
        )


def has_sources(config: Config, sets: Mapping[str, Any]) -> None:
    """Refuse a custom set in which no row has one of the sources that are called harmful."""
    _check_sources(config.compare.harmful_sources or (), set(sets["custom"]["sources"]))


ORACLE = Method(
    "oracle",
    summary="leaves out exactly the rows whose source is known to be harmful",
    source="none; the refusals that it loses too are forgotten, since it sees no harm",
    badge="control",
    differs="its budget is the harmful rows, not d",
    builds_on="data",
    choose=drop_harmful_sources,
    needs=(HARMFUL_SOURCES,),
    suits=has_sources,
)


def marked_tokens(bench: Workbench) -> np.ndarray:
    """Which response tokens of a run's custom set the data mark as unsafe, bool ``[N]``.

    Raises:
        InputError: no token is marked.
    """
    columns = ["offsets", "unsafe_spans"]
    marked = np.concatenate([_marked(rows) for rows in read_batches(bench.layout.rows("custom"), columns)])
    if not marked.any():
        raise _unmarked()
    return marked


def _unmarked() -> InputError:
    return InputError(
        "oracle-tokens: no token of the custom set is marked; give its rows unsafe_spans, or take oracle"
    )


def has_marks(config: Config, sets: Mapping[str, Any]) -> None:
    """Refuse a custom set of which no row is marked."""
    if not sets["custom"]["marked"]:
        raise _unmarked()


def _marked(rows: Sequence[Mapping[str, Any]]) -> np.ndarray:
    return np.concatenate([unsafe_tokens(row["offsets"], row["unsafe_spans"] or []) for row in rows])


def drop_marked_tokens(material: Material) -> np.ndarray:
    """Exactly the marked tokens are dropped, however many; bool ``[N]``."""
    return ~material.signals[MARKED]


ORACLE_TOKENS = Method(
    "oracle-tokens",
    summary="leaves out exactly the tokens that the data mark as unsafe",
    source="none; what a perfect choice of tokens could do",
    badge="control",
    differs="its budget is the marked tokens, not d",
    builds_on="data",
    choose=drop_marked_tokens,
    signals={MARKED: marked_tokens},
    suits=has_marks,
)
