"""Libraries that say nothing between the project's own lines."""

from __future__ import annotations

import logging
import os
import warnings


def quiet_libraries() -> None:
    """No warnings and bars of libraries between the project's own lines."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    warnings.filterwarnings("ignore", category=FutureWarning)
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it misses a kernel that is not used, see quantize.py
    import datasets
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    datasets.disable_progress_bars()
