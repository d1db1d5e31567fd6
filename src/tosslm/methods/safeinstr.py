"""SafeInstr: a few demonstrations of safe answers are mixed into the training rows."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from tosslm.config import Config
from tosslm.errors import InputError
from tosslm.files import read_batches
from tosslm.methods.method import Baseline
from tosslm.methods.safety import needs_safety, read_safety
from tosslm.methods.sft import keep_all


def safety_rows(data: Path, config: Config) -> Iterator[dict[str, Any]]:
    """Safety demonstrations, as many as ``compare.safety_share`` of the custom rows, drawn by the seed.

    Yields:
        Rows with ``messages``.

    Raises:
        InputError: there are fewer demonstrations than asked for.
    """
    custom = sum(len(batch) for batch in read_batches(data / "custom.parquet", ["row_id"]))
    wanted = max(1, round(config.compare.safety_share * custom))
    rows = read_safety(config)
    if len(rows) < wanted:
        raise InputError(f"compare.safety: {len(rows)} rows there, {wanted} needed; lower compare.safety_share")
    for i in sorted(np.random.default_rng(config.seed).permutation(len(rows))[:wanted]):
        yield {"messages": rows[i].messages}


SAFEINSTR = Baseline(
    "safeinstr",
    summary="standard fine-tuning with safety demonstrations mixed in",
    source="Bianchi et al. 2024, arXiv 2309.07875",
    differs="compare.safety_share says how many (they added 100 to 2,000 to 20,000 rows, mostly 500); steps grow by "
    "that share",
    needs="data",
    keep=keep_all,
    extra_rows=safety_rows,
    check=needs_safety("safeinstr"),
)
