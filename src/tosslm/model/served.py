"""Losses of rows from an inference server that answers with log-probabilities of the prompt's tokens."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from typing import Any

import numpy as np

from tosslm.errors import TosslmError
from tosslm.model.server import Server

Rows = Sequence[Mapping[str, Any]]
Advance = Callable[[int, int], None]
_TICK = 0.2
_NO_NUMBER = -9999.0
"""What vLLM writes for a log-probability of minus infinity, which JSON has not."""


class ServedLosses:
    """Asks a server for the losses of rows.

    Args:
        server: which; it is ready.
        in_flight: requests at a time.
    """

    def __init__(self, server: Server, in_flight: int) -> None:
        self._server, self._in_flight = server, in_flight

    @property
    def version(self) -> str:
        """Of the server."""
        return self._server.version

    def losses(self, adapter: str, rows: Rows, advance: Advance) -> list[np.ndarray]:
        """As ``response_losses``, under one adapter.

        Raises:
            TosslmError: the server fails, or what it answers is not the loss of each response token.
        """
        found: list[np.ndarray] = [np.zeros(0, dtype=np.float32)] * len(rows)
        pool = ThreadPoolExecutor(self._in_flight, thread_name_prefix="server")
        try:
            left = {pool.submit(self._row, adapter, row): number for number, row in enumerate(rows)}
            while left:
                done, _ = wait(left, timeout=_TICK, return_when=FIRST_COMPLETED)
                for one in done:
                    number = left.pop(one)
                    found[number] = one.result()
                    advance(1, len(rows[number]["input_ids"]))
                if not done:
                    advance(0, 0)
        finally:
            # What is in flight is not waited for: the server ends next, and those requests with it.
            pool.shutdown(wait=False, cancel_futures=True)
        return found

    def _row(self, adapter: str, row: Mapping[str, Any]) -> np.ndarray:
        positions = np.flatnonzero(row["response_mask"])
        if not len(positions):
            return np.zeros(0, dtype=np.float32)
        prompt = [int(token) for token in row["input_ids"][: positions[-1] + 1]]
        question = {"model": adapter, "prompt": prompt, "max_tokens": 1, "temperature": 0, "prompt_logprobs": 0}
        return read_losses(self._server.ask("/v1/completions", question), prompt, positions, str(row["row_id"]))


def read_losses(reply: Any, prompt: Sequence[int], positions: np.ndarray, name: str) -> np.ndarray:
    """The losses in a reply of `/v1/completions` with ``prompt_logprobs``.

    Args:
        reply: as JSON has it.
        prompt: the tokens that were sent.
        positions: of response tokens in them, int ``[n]``.
        name: of the row, for messages.

    Returns:
        float32 ``[n]``, in nats.

    Raises:
        TosslmError: the reply is of other tokens, or a loss is no number.
    """
    try:
        told = reply["choices"][0]["prompt_logprobs"]
        if len(told) != len(prompt):
            raise LookupError(f"{len(told)} tokens for {len(prompt)}")
        found = [float(told[place][str(prompt[place])]["logprob"]) for place in positions]
    except (LookupError, TypeError, ValueError) as error:
        raise TosslmError(
            f"scoring.server: row {name}: the answer has no log-probability of each token ({type(error).__name__}: "
            f"{error}); the command must start a server whose /v1/completions knows prompt_logprobs, as vLLM's does"
        ) from error
    for place, value in zip(positions, found, strict=True):
        if not math.isfinite(value) or value <= _NO_NUMBER:
            raise TosslmError(
                f"scoring.server: row {name}, position {place}: the log-probability is {value}; try model.dtype "
                "float32, or train the reference with a lower learning_rate"
            )
    return -np.array(found, dtype=np.float32)
