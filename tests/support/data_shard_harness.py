"""Tokenise a run's rows with shards, some of them killed, some twice; started by test_data_shards.py."""

from __future__ import annotations

import json
import sys

from support.dying import DyingReporter
from support.shard_harness import die_while_writing, forked, killed
from tosslm.config import Config, load_config
from tosslm.methods import settled
from tosslm.model.base import Base, open_base
from tosslm.pipeline import workbench
from tosslm.progress import Reporter, SilentReporter
from tosslm.stages.data import data_step
from tosslm.stages.shard import Shard
from tosslm.stages.sharing import data_next

SHARDS = 4
STARTS = [(2, "writing"), (0, "between"), (3, ""), (2, ""), (1, "writing"), (3, "")]
"""Which share, and how it dies: one ends well after it was killed, one is left to whoever gathers, one is doubled."""


def shard(config: Config, base: Base, size: int, index: int, death: str) -> None:
    reporter: Reporter = DyingReporter(1) if death == "between" else SilentReporter()
    if death == "writing":
        die_while_writing(2)
    bench = workbench(config, reporter, base=base)
    data_next(bench, data_step(size), Shard(index, SHARDS), size)


def main() -> None:
    config, size = settled(load_config(json.loads(sys.argv[1])))[0], int(sys.argv[2])
    base = open_base(config.model)
    running: list[int] = []
    kills = 0
    for index, death in STARTS:
        running.append(forked(lambda index=index, death=death: shard(config, base, size, index, death)))  # type: ignore[misc]
        if len(running) == 2:
            kills += killed(running.pop(0))
    print(json.dumps({"kills": kills + sum(map(killed, running))}))


if __name__ == "__main__":
    main()
