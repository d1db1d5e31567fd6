"""What a run does that masked rows do not say, in sentences."""

from __future__ import annotations

from tosslm.config import Config
from tosslm.export.counts import Counts
from tosslm.methods.method import Method
from tosslm.methods.undone import undone


def lost(
    config: Config, method: Method, counts: Counts, *, base: tuple[str, str | None], kind: str, weighs: bool
) -> list[str]:
    """What is lost when another trainer takes the rows of a run.

    Args:
        config: of the run.
        method: that it follows.
        counts: of the rows.
        base: names of base and adapter, as the export tells them.
        kind: of the export.
        weighs: whether the kind carries a weight for each token.
    """
    found = []
    if config.model.adapter:
        found.append(
            f"The run trains on {base[0]} with {base[1]} merged into it: train on that, for "
            "the plain base may be unsafe."
        )
    if config.model.quantize:
        found.append(
            f"The run scores and trains the base with its linear layers in {config.model.quantize}, 4 bits: a "
            "trainer that loads it otherwise starts from a model that answers a little otherwise."
        )
    if config.finetune.anchors:
        found.append(
            f"finetune.dropped: anchor holds the run's model to the base at {counts.dropped_tokens:,} tokens, "
            f"{counts.kept_untrained:,} kept ones among them; here they teach nothing, and nothing holds the model."
        )
    if config.selection.context == "drop":
        found.append(
            f"selection.context: drop takes the {counts.dropped_tokens:,} dropped tokens out of the run's input; "
            "here they stay in it, without labels."
        )
    if counts.weighed and not weighs:
        found.append(
            f"The run weighs tokens: {counts.weighed:,} of {counts.trained_tokens:,} trained ones do not count 1. "
            f"{kind} says only whether a token is trained; the kinds swift and tinker carry weights."
        )
    found += undone(method)
    if config.finetune.normalize != "kept":
        found.append(
            f"finetune.normalize: {config.finetune.normalize} divides the run's loss otherwise than trainers do, who "
            "divide by the trained tokens of a batch."
        )
    return found
