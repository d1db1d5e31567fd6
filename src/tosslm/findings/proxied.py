"""That a run's references are a proxy's, told alike to readers of the run and of its model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tosslm.config import Config


def proxy_used(config: Config) -> str | None:
    """What the proxy was and did; None where the references are the base's own."""
    references = config.references
    if not references.model:
        return None
    aligned = f" with {references.adapter} merged into it" if references.adapter else ""
    return (
        f"The scores are a proxy's: the references were trained on {references.model}{aligned}, not on the base, and "
        "what it said of the text reached the base's tokens by share of characters."
    )


def proxy_warnings(config: Config, stages: Mapping[str, Any]) -> list[str]:
    """What a reader should know of scores of a proxy.

    Args:
        config: of the run.
        stages: what the manifest records of each step.
    """
    if not (used := proxy_used(config)):
        return []
    found = [f"{used} The degraded reference being the proxy's, diagnosis measures no movement toward it."]
    for name, counts in stages.get("proxy", {}).get("sets", {}).items():
        if counts["unscored"]:
            found.append(
                f"The proxy says nothing of {counts['unscored']:,} of the base's response tokens of the {name} set, "
                "text that its chat template does not write (white space at the ends, say): their losses are 0."
            )
    return found
