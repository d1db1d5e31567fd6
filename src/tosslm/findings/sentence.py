"""Sentences that keep which of their pieces carry the numbers: page and terminal set those in bold."""

from __future__ import annotations


class Strong(str):
    """A piece of a sentence that a reader looks for."""

    __slots__ = ()


class Sentence(str):
    """Plain text that remembers the pieces it is made of.

    Args:
        pieces: read one after the other; a ``Sentence`` among them gives its own.

    Attributes:
        pieces: some of them ``Strong``.

    Examples:
        >>> Sentence("Of ", Strong("9"), " rows.")
        'Of 9 rows.'
    """

    pieces: tuple[str, ...]

    def __new__(cls, *pieces: str) -> Sentence:
        """Join the pieces, and keep them."""
        flat = [own for piece in pieces for own in (piece.pieces if isinstance(piece, Sentence) else (piece,))]
        made = super().__new__(cls, "".join(flat))
        made.pieces = tuple(flat)
        return made


def listed(sentences: list[Sentence], between: str = ", ") -> Sentence:
    """Sentences as one, with something between them."""
    pieces = [piece for sentence in sentences for piece in (between, sentence)]
    return Sentence(*pieces[1:])
