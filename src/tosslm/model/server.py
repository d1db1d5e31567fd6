"""An inference server of vLLM's kind on this machine: started for this process alone, asked for losses, and ended.

It is reached through a Unix socket in a folder that is its owner's alone: `vllm serve --api-key` protects some of its
paths only, and who reaches a port of the loopback reaches the rest, with the degraded reference behind it.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any

from tosslm.errors import TosslmError
from tosslm.model import keeper

_RETRIES = 4
_PAUSE = 0.25
"""Seconds before the second try of a request; doubled each time."""
_POLL = 0.2
_HEALTH_SECONDS = 5.0
_TAIL, _TAIL_BYTES = 6, 1 << 16
_PASSING = {408, 409, 425, 429}
_LAUNCHERS = ("RANK", "WORLD_SIZE", "MASTER_", "LOCAL_", "GROUP_", "ROLE_", "TORCHELASTIC_", "ACCELERATE_")
"""Beginnings of variables of a launcher of this process: the server would take itself for one of its processes."""


@dataclass(frozen=True, slots=True)
class Serving:
    """What is served, and how.

    Attributes:
        command: the program and its first arguments.
        arguments: what follows it: subcommand, model and options. The socket is added.
        log: where its output goes; the file grows.
        seconds: until it has to be ready, and for a reply.
    """

    command: Sequence[str]
    arguments: Sequence[str]
    log: Path
    seconds: float


class Server:
    """A running server.

    Attributes:
        version: what it says of itself.
    """

    def __init__(self, serving: Serving, folder: Path) -> None:
        self._serving, self._socket, self._key = serving, folder / "s", secrets.token_urlsafe(32)
        self._over = threading.Event()
        self.version = "unknown"
        serving.log.parent.mkdir(mode=0o700, exist_ok=True)
        with os.fdopen(os.open(serving.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "ab") as log:
            self._begin = log.seek(0, os.SEEK_END)
            self._process = subprocess.Popen(
                [sys.executable, keeper.__file__, *serving.command, *serving.arguments, "--uds", str(self._socket)],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C on a terminal is for this process, which then ends that one
                env=_environment(self._key, folder),
            )

    def wait(self, tell: Callable[[], None]) -> None:
        """Wait until it is ready.

        Args:
            tell: called meanwhile; it may raise.

        Raises:
            TosslmError: it ended, or was not ready in time; with the end of its log.
        """
        end = time.monotonic() + self._serving.seconds
        while not self._is_ready():
            self.check()
            if time.monotonic() > end:
                raise TosslmError(
                    f"scoring.server: {self._serving.command[0]} was not ready after {self._serving.seconds:g} "
                    f"seconds (scoring.server.seconds); {self._told()}"
                )
            tell()
            time.sleep(_POLL)
        with suppress(OSError, HTTPException, ValueError, LookupError, TypeError):
            self.version = str(json.loads(self._exchange("GET", "/version", None)[1])["version"])

    def check(self) -> None:
        """See that it is there.

        Raises:
            TosslmError: it has ended.
        """
        if (status := self._process.poll()) is not None:
            raise TosslmError(
                f"scoring.server: {self._serving.command[0]} ended with status {status}; {self._told()}"
            )

    def ask(self, path: str, question: Mapping[str, Any]) -> Any:
        """The JSON that it answers; what may pass is tried again.

        Raises:
            TosslmError: it has ended, refuses, or fails each time.
        """
        body, pause, reason = json.dumps(question).encode(), _PAUSE, ""
        for number in range(_RETRIES + 1):
            if number and self._over.wait(pause * 2 ** (number - 1)):
                break
            try:
                status, reply = self._exchange("POST", path, body)
                if status == 200:
                    return json.loads(reply)
                reason = f"status {status}: {reply.decode(errors='replace')[:500]}"
                if status < 500 and status not in _PASSING:
                    break
            except (OSError, HTTPException, ValueError) as error:
                reason = f"{type(error).__name__}: {error}"
            self.check()
        raise TosslmError(f"scoring.server: no answer ({reason}); {self._told()}")

    def end(self) -> None:
        """End it and all that it started."""
        self._over.set()
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()  # which kills what does not heed it

    def _is_ready(self) -> bool:
        try:
            return self._exchange("GET", "/health", None, _HEALTH_SECONDS)[0] == 200
        except (OSError, HTTPException):
            return False

    def _exchange(
        self, method: str, path: str, body: bytes | None, seconds: float | None = None
    ) -> tuple[int, bytes]:
        connection = _Connection(self._socket, seconds or self._serving.seconds)
        try:
            headers = {"Authorization": f"Bearer {self._key}", "Content-Type": "application/json"}
            connection.request(method, path, body, headers)
            reply = connection.getresponse()
            return reply.status, reply.read()
        finally:
            connection.close()

    def _told(self) -> str:
        """The end of its log."""
        with self._serving.log.open("rb") as log:
            log.seek(max(self._begin, log.seek(0, os.SEEK_END) - _TAIL_BYTES))
            lines = log.read().decode(errors="replace").splitlines()
        said = " | ".join(line.strip() for line in lines[-_TAIL:] if line.strip())
        return f"the end of {self._serving.log}: {said or 'it is empty'}"


@contextmanager
def running(serving: Serving, tell: Callable[[], None]) -> Iterator[Server]:
    """A server that is ready, and is ended with the block.

    Args:
        serving: what is served.
        tell: called while it starts; it may raise.

    Raises:
        TosslmError: it does not start.
    """
    # Not in the run folder: the path of a socket has 107 bytes at most.
    with tempfile.TemporaryDirectory(prefix="toss-") as folder:
        server = Server(serving, Path(folder))
        try:
            server.wait(tell)
            yield server
        finally:
            server.end()


class _Connection(HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: Path, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


def _environment(key: str, folder: Path) -> dict[str, str]:
    """This process's, without its launcher's; the key is not on the command line, where others can read it."""
    own = {name: value for name, value in os.environ.items() if not name.startswith(_LAUNCHERS)}
    return own | {
        "VLLM_API_KEY": key,
        "VLLM_RPC_BASE_PATH": str(folder),
        "VLLM_NO_USAGE_STATS": "1",  # nobody is told of it
        "DO_NOT_TRACK": "1",
        "HF_HUB_OFFLINE": "1",  # all that it reads is here
    }
