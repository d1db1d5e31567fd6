"""One process's share of a step, beside others that need not know of one another; the next run takes its work."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tosslm.config import Config, load_config
from tosslm.door import check_launcher, check_local, check_places
from tosslm.errors import InputError
from tosslm.methods import settled
from tosslm.pipeline import outputs, steps, upto, workbench
from tosslm.progress import Reporter, SilentReporter
from tosslm.stages.shard import Shard
from tosslm.stages.sharing import data_next, score_next


def score_shard(
    config: Config | Mapping[str, Any] | str | Path, shard: Shard, *, reporter: Reporter | None = None
) -> dict[str, Any]:
    """One process's share of the scoring, beside others; what it writes the next ``run`` takes into the run.

    Args:
        config: as for ``run``, the same for all shards.
        shard: which share.
        reporter: where progress goes.

    Returns:
        ``step``, the scores it worked on, None where none wait for work; ``shard``, as ``I/N``; ``files``, its share;
        ``written``, how many it wrote now; ``tokens``, that it read.

    Raises:
        InputError: config or data are wrong, or are not those that the run was prepared with.
        TosslmError: the work failed.
    """
    config, method = settled(config if isinstance(config, Config) else load_config(config))
    check_local(
        config.run_dir,
        "sharing scores (--shard)",
        "name one that all machines see: the degraded reference, which every share reads, is never uploaded",
    )
    if check_launcher(config):
        raise InputError(
            "--shard: each share holds its model whole, and use_fsdp of accelerate's config asks for a sharded one; "
            "score a model larger than one GPU without --shard, or leave out use_fsdp (ACCELERATE_USE_FSDP)"
        )
    check_places(config)
    before_selection = upto(steps(config, method), "refine")
    return score_next(workbench(config, reporter or SilentReporter()), before_selection, shard)


def data_shard(
    config: Config | Mapping[str, Any] | str | Path, shard: Shard, *, reporter: Reporter | None = None
) -> dict[str, Any]:
    """One process's share of the tokenising, beside others; the next ``run`` takes it. Otherwise as ``score_shard``.

    ``files`` are blocks of rows, ``tokens`` those in the blocks that it wrote; the run folder need not be there.
    """
    config, method = settled(config if isinstance(config, Config) else load_config(config))
    check_local(config.run_dir, "sharing the tokenising (--shard)", "name one that all machines see")
    check_places(config)
    bench = workbench(config, reporter or SilentReporter())
    bench.folder.check_ours(outputs())
    return data_next(bench, upto(steps(config, method), "data")[-1], shard)
