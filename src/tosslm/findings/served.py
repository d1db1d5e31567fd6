"""That a run's scores are an inference server's, and how near its losses came to this program's own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tosslm.config import Config


def served_told(facts: Mapping[str, Any]) -> str:
    """What the check of a server found.

    Args:
        facts: ``server`` of a step that scores, as the manifest records it.
    """
    return (
        f"On {facts['rows']:,} custom rows ({facts['tokens']:,} response tokens) the losses of the inference server, "
        f"version {facts['version']}, differ from tosslm's own by {facts['largest_difference']:.2g} nats at most and "
        f"{facts['mean_difference']:.2g} on average, and {facts['moved']:,} of {facts['dropped']:,} tokens dropped "
        f"({facts['mask_change']:.1%}) would be others."
    )


def served_warnings(config: Config, stages: Mapping[str, Any]) -> list[str]:
    """What a reader should know of scores that a server computed.

    Args:
        config: of the run.
        stages: what the manifest records of each step.
    """
    if config.scoring.engine != "vllm":
        return []
    found = [entry["server"] for name, entry in stages.items() if name.startswith("scores/") and entry.get("server")]
    told = served_told(found[-1]) if found else "How near they came stands in run.log, and in the shards' logs."
    return [f"Scores are an inference server's. {told}"]
