"""What could be won if one knew which rows are harmful, and left out nothing else."""

import numpy as np

from tosslm.errors import InputError
from tosslm.methods.material import Material
from tosslm.methods.method import Method, keep_rows
from tosslm.methods.needs import HARMFUL_SOURCES


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


ORACLE = Method(
    "oracle",
    summary="leaves out exactly the rows whose source is known to be harmful",
    source="none; the refusals that it loses too are forgotten, since it sees no harm",
    badge="control",
    differs="its budget is the harmful rows, not d",
    builds_on="data",
    choose=drop_harmful_sources,
    needs=(HARMFUL_SOURCES,),
)
