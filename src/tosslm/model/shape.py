"""What of a model decides time and memory."""

from __future__ import annotations

from dataclasses import dataclass

LOGITS_BYTES = 256 * 2**20
"""No array of logits is larger than this many bytes of float32."""


@dataclass(frozen=True, slots=True)
class Shape:
    """What of a model decides time and memory.

    Attributes:
        parameters: of the whole model.
        layers: how many.
        hidden: width of a hidden state.
        vocabulary: tokens that the head tells apart.
        bytes_per_value: of a weight in memory.
        tied: whether the head's weights are the embedding's.
    """

    parameters: int
    layers: int
    hidden: int
    vocabulary: int
    bytes_per_value: int
    tied: bool = True

    @property
    def body(self) -> int:
        """Parameters that every token passes through; the embedding is looked up, the head counts by itself."""
        return self.parameters - (1 if self.tied else 2) * self.head

    @property
    def head(self) -> int:
        """Parameters that a position passes through at which something is predicted."""
        return self.hidden * self.vocabulary
