"""Run a command for as long as whoever asked for it is there; started as a program of its own.

A server that holds a degraded reference must not outlive the run that started it, however that ends: a process that
is killed runs no clean-up. So this one starts the server, and waits for the end of its standard input, which comes
when the run closes it, and when the run is gone.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress

PATIENCE = 10.0
"""Seconds that a command has to end by itself."""


def keep(command: list[str]) -> int:
    """Run a command, and with it end all that it started.

    Returns:
        Its exit status; below 0, the signal that ended it; 127 where it cannot be started.
    """
    try:
        kept = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)
    except OSError as error:
        print(error, file=sys.stderr)
        return 127
    threading.Thread(target=_until_left, args=(kept.pid,), daemon=True).start()
    status = kept.wait()
    _signal(kept.pid, signal.SIGKILL)
    return status


def _until_left(group: int) -> None:
    while os.read(0, 1024):  # not sys.stdin, whose lock would keep this process from ending
        pass
    _signal(group, signal.SIGTERM)
    time.sleep(PATIENCE)
    _signal(group, signal.SIGKILL)


def _signal(group: int, number: int) -> None:
    with suppress(ProcessLookupError):
        os.killpg(group, number)


if __name__ == "__main__":
    # As a shell would say it, for a signal's number is no exit status.
    sys.exit(128 - status if (status := keep(sys.argv[1:])) < 0 else status)
