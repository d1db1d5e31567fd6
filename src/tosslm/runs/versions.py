"""What decides a result beside data and config: the versions of Python and of libraries."""

from __future__ import annotations

import platform
from importlib import metadata

_PACKAGES = ("tosslm", "torch", "transformers", "peft", "trl", "tokenizers", "numpy", "pyarrow", "datasets")


def versions_here(*, quantized: bool) -> dict[str, str]:
    """Versions by name of the package, and that of Python.

    Args:
        quantized: whether the base is, so that the package that does it counts too.
    """
    packages = (*_PACKAGES, *(["bitsandbytes"] if quantized else []))
    return {name: metadata.version(name) for name in packages} | {"python": platform.python_version()}
