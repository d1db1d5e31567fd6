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
