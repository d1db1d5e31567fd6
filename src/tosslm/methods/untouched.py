"""The base as it was."""

from tosslm.methods.method import Method

BASE = Method(
    "base",
    summary="the base, not fine-tuned: the safety that there is to lose, and the utility to gain on",
    source="none",
    badge="control",
    builds_on="data",
    trains=False,
)
