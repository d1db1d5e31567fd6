"""Contents that stand in several sets, which ought to be apart."""

from __future__ import annotations

from dataclasses import dataclass, field

from tosslm.data.rows import base_id

REFERENCES = ("harmful", "utility")


@dataclass(slots=True)
class Shared:
    """Which contents of the reference sets stand elsewhere too; those of the custom set are not kept.

    Add the rows of the reference sets before those of the custom set.

    Attributes:
        contents: of each reference set, by the id that copies share.
        in_custom: of these, which the custom set has too.
    """

    contents: dict[str, set[str]] = field(default_factory=lambda: {name: set() for name in REFERENCES})
    in_custom: dict[str, set[str]] = field(default_factory=lambda: {name: set() for name in REFERENCES})

    def add(self, name: str, row_id: str) -> None:
        """Take notice of a row of a set."""
        content = base_id(row_id)
        if name in self.contents:
            self.contents[name].add(content)
            return
        for one, known in self.contents.items():
            if content in known:
                self.in_custom[one].add(content)

    def counts(self) -> dict[str, int]:
        """How many contents are in the custom set and a reference set, and in both of these; those that are any."""
        found = {name: len(contents) for name, contents in self.in_custom.items()}
        found["both"] = len(self.contents["harmful"] & self.contents["utility"])
        return {name: count for name, count in found.items() if count}


def shared_told(counts: dict[str, int]) -> list[str]:
    """Sentences on what ``Shared.counts`` found.

    Examples:
        >>> [told.partition(":")[0] for told in shared_told({"utility": 3, "both": 2})]
        ['3 contents of the utility set stand in the custom set too', '2 contents are harmful and utility rows']
    """
    told = [
        f"{count:,} contents of the {name} set stand in the custom set too: the model is fine-tuned on those that "
        "references.holdout holds out, so what is measured on them looks better than it is, and a reference scores "
        "what it has learnt by heart."
        for name in REFERENCES
        if (count := counts.get(name))
    ]
    if both := counts.get("both"):
        told.append(
            f"{both:,} contents are harmful and utility rows: what the two references learn from them is the same, "
            "and tells nothing apart."
        )
    return told
