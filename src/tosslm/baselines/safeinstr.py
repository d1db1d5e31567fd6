"""SafeInstr: a few demonstrations of safe answers are mixed into the training rows."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from tosslm.baselines.baseline import Baseline
from tosslm.baselines.sft import keep_all
from tosslm.config import Config
from tosslm.data.rows import BadRow, read_rows
from tosslm.errors import InputError
from tosslm.files import read_batches


def safety_rows(data: Path, config: Config) -> Iterator[dict[str, Any]]:
    """Safety demonstrations, as many as ``compare.safety_share`` of the custom rows, drawn by the seed.

    Yields:
        Rows with ``messages``.

    Raises:
        InputError: there are fewer demonstrations than asked for.
    """
    source = config.compare.safety
    if source is None:
        return
    custom = sum(len(batch) for batch in read_batches(data / "custom.parquet", ["row_id"]))
    wanted = max(1, round(config.compare.safety_share * custom))
    read = read_rows(source.path, format=source.format, field=source.field, split=source.split)
    rows = [row for row in read if not isinstance(row, BadRow)]
    if len(rows) < wanted:
        raise InputError(f"compare.safety: {len(rows)} rows there, {wanted} needed; lower compare.safety_share")
    for i in sorted(np.random.default_rng(config.seed).permutation(len(rows))[:wanted]):
        yield {"messages": rows[i].messages}


def _check(config: Config) -> None:
    if config.compare.safety is None:
        raise InputError("safeinstr: name rows of safe answers to unsafe requests in compare.safety.path")


SAFEINSTR = Baseline(
    "safeinstr",
    summary="standard fine-tuning with safety demonstrations mixed in",
    source="Bianchi et al. 2024, arXiv 2309.07875",
    differs="compare.safety_share says how many (they added 100 to 2,000 to 20,000 rows, mostly 500); steps grow by "
    "that share",
    needs="data",
    keep=keep_all,
    extra_rows=safety_rows,
    check=_check,
)
