"""Standard fine-tuning: every response token is trained on."""

from tosslm.methods.method import Method, keep_all

SFT = Method(
    "sft",
    summary="standard fine-tuning on every response token",
    source="none",
    badge="control",
    builds_on="data",
    choose=keep_all,
)
