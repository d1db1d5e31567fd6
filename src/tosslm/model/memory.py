"""Memory that does not suffice: told apart from other errors, and with the keys that ask for less."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from tosslm.errors import TosslmError


def out_of_memory(error: Exception) -> bool:
    """Whether an error says that memory does not suffice, of a device or of the machine."""
    text = str(error)
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in text


@contextmanager
def lowering(what: str, remedy: str) -> Iterator[None]:
    """Say what does not fit in memory, and which keys ask for less.

    Args:
        what: is done.
        remedy: keys to lower, or to set.

    Raises:
        TosslmError: memory does not suffice.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
        raise TosslmError(f"{what} does not fit in memory; {remedy}, or use a larger machine") from error


def device_memory(device: torch.device) -> int | None:
    """Bytes that a device has in all; of the CPU the machine's; None where it does not say."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    if device.type == "cpu" and hasattr(os, "sysconf"):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return None
