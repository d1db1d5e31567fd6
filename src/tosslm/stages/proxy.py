"""Where the references are a proxy's: its own tokens of all rows, and its losses on the base's tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tosslm.config import Config
from tosslm.errors import TosslmError
from tosslm.runs.layout import DATA, PROXY, SETS
from tosslm.runs.recorded import Mark
from tosslm.runs.tables import PROXY_SCHEMA, stored_rows, write_rows
from tosslm.stages.step import Facts, Step
from tosslm.workbench import Workbench

if TYPE_CHECKING:
    from tosslm.model.proxy import Proxy

Rows = Sequence[dict[str, Any]]
ROW_COLUMNS = ("row_id", "messages", "input_ids", "response_mask", "offsets")
"""What a row's place on the axis of its answers is told from."""


def reads(config: Config) -> tuple[str, ...]:
    """The steps whose rows the references read."""
    return (DATA, PROXY) if config.references.model else (DATA,)


def rows_of(bench: Workbench, name: str) -> Path:
    """The rows of a set as the references' model reads them."""
    return bench.layout.proxy_rows(name) if bench.proxy else bench.layout.rows(name)


def proxy_steps(config: Config) -> list[Step]:
    """The three sets in the proxy's tokens; nothing where the base is the references' model."""
    return [Step(PROXY, "references", 1, (DATA,), _prepare, _covers)] if config.references.model else []


def _covers(bench: Workbench) -> list[Any]:
    return [_proxy(bench).base.identity]


def _proxy(bench: Workbench) -> Proxy:
    assert bench.proxy is not None  # the config that made the step opened it
    return bench.proxy


def _prepare(bench: Workbench, mark: Mark) -> Facts:
    """Write ``proxy/{custom,harmful,utility}.parquet``, row for row those of the data.

    Raises:
        InputError: the proxy cannot read a row (names it).
    """
    from tosslm.model.proxy import ProxyCounts

    proxy, references = _proxy(bench), bench.config.references
    bench.reporter.say(
        f"the references are trained on the proxy {references.model}"
        + (f" with {references.adapter}" if references.adapter else "")
        + ("" if proxy.own_template else ", which has no chat template and reads rows in the base's")
    )
    counts = {name: ProxyCounts() for name in SETS}
    for name in SETS:
        stored = stored_rows(bench.layout.rows(name), (*ROW_COLUMNS, "origin"))
        rows = proxy.rows(stored, bench.config.data.turns, counts[name])
        write_rows(bench.layout.proxy_rows(name), rows, PROXY_SCHEMA, mark.fingerprint)
    return {
        "name": references.model,
        "adapter": references.adapter,
        "chat_template": proxy.template_told,
        "sets": {name: asdict(one) for name, one in counts.items()},
    }


def paired(rows: Rows, proxies: Rows) -> list[dict[str, Any]]:
    """Rows, each with what the proxy reads of it as ``proxy``.

    Raises:
        TosslmError: these are not the same rows.
    """
    if [row["row_id"] for row in rows] != [proxy["row_id"] for proxy in proxies]:
        raise TosslmError("the proxy's rows are not those of the data; `toss run` makes them anew")
    return [row | {"proxy": proxy} for row, proxy in zip(rows, proxies, strict=True)]


def carried(rows: Sequence[Mapping[str, Any]], losses: Sequence[np.ndarray], config: Config) -> list[np.ndarray]:
    """A proxy's losses of paired rows on the base's response tokens: float32, one array a row."""
    from tosslm.data.proxied import carry_losses

    turns = config.data.turns
    return [carry_losses(row, row["proxy"], own, turns) for row, own in zip(rows, losses, strict=True)]
