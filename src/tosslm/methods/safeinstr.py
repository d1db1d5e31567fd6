"""SafeInstr: a few demonstrations of safe answers are mixed into the training rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from tosslm.config import Config
from tosslm.data.rows import Row
from tosslm.errors import InputError
from tosslm.methods.method import Method, keep_all
from tosslm.methods.needs import SAFETY, read_safety, safety_parts
from tosslm.runs.tables import row_ids

if TYPE_CHECKING:
    from tosslm.workbench import Workbench


def drawn_safety_rows(config: Config, custom_rows: int, say: Callable[[str], None] = lambda _: None) -> list[Row]:
    """Safety demonstrations, as many as ``compare.safety_share`` of the custom rows, drawn by the seed.

    Raises:
        InputError: there are fewer demonstrations than asked for.
    """
    wanted = max(1, round(config.compare.safety_share * custom_rows))
    rows = read_safety(config, say)
    if len(rows) < wanted:
        raise InputError(f"compare.safety: {len(rows)} rows there, {wanted} needed; lower compare.safety_share")
    return [rows[i] for i in sorted(np.random.default_rng(config.seed).permutation(len(rows))[:wanted])]


def safety_rows(bench: Workbench) -> Iterator[dict[str, Any]]:
    """The drawn demonstrations as training rows."""
    from tosslm.training.labels import training_row

    count = len(row_ids(bench.layout.rows("custom")))
    for row in drawn_safety_rows(bench.config, count, bench.reporter.say):
        tokens = bench.tokenizer(row.messages, context=row.context)
        yield training_row(tokens.input_ids, tokens.response_mask, None)


SAFEINSTR = Method(
    "safeinstr",
    summary="standard fine-tuning with safety demonstrations mixed in",
    source="Bianchi et al. 2024, arXiv 2309.07875",
    badge="variant",
    differs="compare.safety_share says how many (they added 100 to 2,000 to 20,000 rows, mostly 500); steps grow by "
    "that share",
    builds_on="data",
    choose=keep_all,
    extra_rows=safety_rows,
    needs=(SAFETY,),
    training_covers=lambda bench: [*safety_parts(bench), bench.config.compare.safety_share],
)
