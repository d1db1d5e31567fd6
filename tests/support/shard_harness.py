"""Score a prepared run with shards in random order, some of them killed, some twice; started by test_shards.py.

A process of its own, which loads the libraries once and forks for each shard; nothing is computed before a fork, so
no thread pool is lost in one.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
from collections.abc import Callable
from typing import Any

import pyarrow.parquet as pq

import tosslm.model.base
import tosslm.model.losses
import tosslm.shares
from support.dying import DyingReporter, KilledError
from tosslm.progress import Reporter, SilentReporter
from tosslm.stages.shard import Shard

SHARDS = 8


def forked(work: Callable[[], object]) -> int:
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: PTH123, SIM115
        work()
        status = 0
    except KilledError:
        os.kill(os.getpid(), signal.SIGKILL)
    finally:
        os._exit(status)


def killed(child: int) -> bool:
    _, status = os.waitpid(child, 0)
    if not os.WIFSIGNALED(status) and os.waitstatus_to_exitcode(status):
        raise SystemExit("a shard failed by itself")
    return os.WIFSIGNALED(status)


def die_while_writing(files: int) -> None:
    """Kill this process in the midst of one of its files: rows are on the disk, the end of the file is not."""
    write, left = pq.ParquetWriter.write_table, files

    def write_and_die(self: Any, *arguments: Any, **options: Any) -> None:
        nonlocal left
        write(self, *arguments, **options)
        left -= 1
        if not left:
            os.kill(os.getpid(), signal.SIGKILL)

    pq.ParquetWriter.write_table = write_and_die


def shard(config: dict[str, Any], index: int, death: str) -> None:
    reporter: Reporter = SilentReporter()
    if death == "computing":
        reporter = DyingReporter(3)
    elif death == "writing":
        die_while_writing(2)
    tosslm.shares.score_shard(config, Shard(index, SHARDS), reporter=reporter)


def main() -> None:
    config = json.loads(sys.argv[1])
    rng = random.Random(int(sys.argv[2]))
    starts = [(index, death) for index in range(SHARDS) for death in ("", rng.choice(["computing", "writing", ""]))]
    del starts[0]  # one share is left to whoever gathers
    rng.shuffle(starts)
    kills, running = 0, []
    for index, death in starts:
        running.append(forked(lambda index=index, death=death: shard(config, index, death)))  # type: ignore[misc]
        if len(running) == 2:
            kills += killed(running.pop(0))
    print(json.dumps({"kills": kills + sum(map(killed, running))}))


if __name__ == "__main__":
    main()
