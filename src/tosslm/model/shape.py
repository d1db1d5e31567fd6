"""What of a model decides time and memory."""

from __future__ import annotations

from dataclasses import dataclass

LOGITS_BYTES = 256 * 2**20
"""No array of logits is larger than this many bytes of float32."""
FOUR_BIT_BYTES = 0.5 + 1 / 64 + 4 / (64 * 256)
"""Of a weight in NF4: half a byte, a byte of scale for each 64 weights, and 4 bytes for each 256 of those scales."""


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
        four_bit: parameters that are held in four bits, of those of the whole model.
    """

    parameters: int
    layers: int
    hidden: int
    vocabulary: int
    bytes_per_value: int
    tied: bool = True
    four_bit: int = 0

    @property
    def body(self) -> int:
        """Parameters that every token passes through; the embedding is looked up, the head counts by itself."""
        return self.parameters - (1 if self.tied else 2) * self.head

    @property
    def head(self) -> int:
        """Parameters that a position passes through at which something is predicted."""
        return self.hidden * self.vocabulary
