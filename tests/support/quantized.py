"""Tests of a base in four bits, which take bitsandbytes."""

from __future__ import annotations

import importlib.util
import os

import pytest

NEEDED = "TOSSLM_NEED_QLORA"


def need_bitsandbytes() -> None:
    """Skip a test where bitsandbytes is not installed, or fail it where that was promised."""
    if importlib.util.find_spec("bitsandbytes") is not None:
        return
    if os.environ.get(NEEDED):
        pytest.fail(f"no bitsandbytes here, and {NEEDED} is set: `make qlora` installs it")
    pytest.skip("no bitsandbytes here: bases in 4 bits are not tested; `make qlora` installs it and runs these tests")
