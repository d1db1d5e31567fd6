"""The base as it was."""

from tosslm.methods.method import Baseline

BASE = Baseline(
    "base",
    summary="the base, not fine-tuned: the safety that there is to lose, and the utility to gain on",
    source="none",
    needs="data",
    trains=False,
)
