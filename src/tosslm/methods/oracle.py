"""What could be won if one knew which rows are harmful, and left out nothing else."""

import numpy as np

from tosslm.config import Config
from tosslm.errors import InputError
from tosslm.methods.method import Baseline, Material, keep_rows


def drop_harmful_sources(material: Material) -> np.ndarray:
    """Exactly the rows whose source is called harmful are dropped, however many; bool ``[N]``.

    Raises:
        InputError: no row has such a source.
    """
    kept = np.array([source not in material.harmful_sources for source in material.sources], dtype=bool)
    if kept.all():
        names = ", ".join(sorted(set(material.sources)))
        raise InputError(f"compare.harmful_sources: no custom row has such a source; there are: {names}")
    return keep_rows(material, kept)


def _check(config: Config) -> None:
    if not config.compare.harmful_sources:
        raise InputError("oracle: name the sources that are harmful in compare.harmful_sources")


ORACLE = Baseline(
    "oracle",
    summary="leaves out exactly the rows whose source is known to be harmful",
    source="none; the refusals that it loses too are forgotten, since it sees no harm",
    differs="its budget is the harmful rows, not d",
    needs="data",
    keep=drop_harmful_sources,
    check=_check,
)
