"""Rows and prompts that ought to be apart and are not, in sentences; pure."""

from __future__ import annotations

from collections.abc import Mapping


def shared_told(counts: Mapping[str, int]) -> list[str]:
    """Sentences on what ``data.shared.Shared.counts`` found.

    Examples:
        >>> [told.partition(":")[0] for told in shared_told({"utility": 3, "both": 2})]
        ['3 contents of the utility set stand in the custom set too', '2 contents are harmful and utility rows']
    """
    told = [
        f"{count:,} contents of the {name} set stand in the custom set too: the model is fine-tuned on those that "
        "references.holdout holds out, so what is measured on them looks better than it is, and a reference scores "
        "what it has learnt by heart."
        for name in ("harmful", "utility")
        if (count := counts.get(name))
    ]
    if both := counts.get("both"):
        told.append(
            f"{both:,} contents are harmful and utility rows: what the two references learn from them is the same, "
            "and tells nothing apart."
        )
    return told


def seen_told(counts: Mapping[str, int]) -> list[str]:
    """Sentences on what ``evaluation.seen.seen_prompts`` found.

    Examples:
        >>> [told.partition(":")[0] for told in seen_told({"gsm8k": 3})]
        ['evaluation.gsm8k']
    """
    return [
        f"evaluation.{kind}: {count:,} of its prompts stand in the custom set too, so the model was fine-tuned on "
        "what it is measured on; take them out of one of the two."
        for kind, count in counts.items()
    ]
