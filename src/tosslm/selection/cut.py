"""From scores to the keep mask: the riskiest response tokens are dropped (TOSS, arXiv 2603.01185).

Of ``N`` response tokens exactly ``floor(d * N)`` are dropped, those with the highest scores; of equal scores the
earlier token is dropped first. So the mask is a function of the scores alone, to the token.

The lowest dropped score is found by counting, not by sorting: each score becomes an unsigned integer of the same
order, and a histogram of its upper 16 bits, then of the next 16 within the one bin that holds the answer, and so on,
pins it down. That takes a few megabytes and much the same time whatever the scores are, and it works on scores that
come in parts. (``np.partition`` copies them all, and can be several times slower where most are equal.)

Everything here is pure NumPy.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

PART = 1 << 17  # scores worked on at a time: a part and its temporaries stay in a core's cache
_DIGIT = 16  # bits a histogram counts at a time


@dataclass(frozen=True, slots=True)
class Cut:
    """Where the dropped tokens end.

    Args:
        tokens: how many there are.
        discarded: how many of them are dropped.
        threshold: the lowest dropped score; None if nothing is dropped.
        ties: how many tokens that equal the threshold are dropped, the earliest first. All above it are.
    """

    tokens: int
    discarded: int
    threshold: float | None
    ties: int


def discard_count(n_tokens: int, discard_fraction: float) -> int:
    """How many tokens are dropped: ``floor(discard_fraction * n_tokens)``, the product in float64.

    Raises:
        ValueError: ``n_tokens`` is negative, or ``discard_fraction`` is not in [0, 1).
    """
    if n_tokens < 0:
        raise ValueError(f"n_tokens is {n_tokens}; it must be 0 or more")
    if discard_fraction == 1:
        raise ValueError(
            "discard_fraction is 1: that would drop every token and leave nothing to train on; choose a value "
            "below 1, such as 0.1"
        )
    if not 0 <= discard_fraction < 1:  # NaN too
        raise ValueError(
            f"discard_fraction is {discard_fraction}; it is the share of tokens to drop: choose a value from 0 up "
            "to, not including, 1, such as 0.1"
        )
    return math.floor(float(discard_fraction) * n_tokens)


def share_of(discarded: int, tokens: int) -> float:
    """A share of which ``discard_count`` makes so many dropped tokens of so many; 0 of no tokens."""
    share = discarded / tokens if tokens else 0.0
    return share if discard_count(tokens, share) == discarded else math.nextafter(share, 1.0)


def select_tokens(scores: np.ndarray, discard_fraction: float = 0.1) -> np.ndarray:
    """Choose the tokens to train on.

    Args:
        scores: ``[N]``, float32 (float16 and float64 are ranked as they are, never rounded); high means risky.
        discard_fraction: share of tokens to drop, in [0, 1).

    Returns:
        keep: bool ``[N]``, False for exactly ``floor(discard_fraction * N)`` tokens.

    Raises:
        ValueError: a score is NaN or infinite (the message has its index), ``scores`` is not one-dimensional, or
            ``discard_fraction`` is not in [0, 1).
        TypeError: ``scores`` are not real floating-point numbers of at most 64 bits.

    Examples:
        >>> select_tokens(np.array([0.5, 2.0, -1.0, 2.0], dtype=np.float32), discard_fraction=0.25).tolist()
        [True, False, True, True]
    """
    scores = _vector(scores)
    discarded = discard_count(len(scores), discard_fraction)
    key, ties = None, 0
    if discarded and len(scores) <= PART:
        key, ties = _lowest_dropped(next(_keys(scores)), discarded)
    elif discarded:
        _, _, key, ties = _count_down(lambda: _keys(scores), scores.dtype.itemsize * 8, discard_fraction)
    return _mask(_keys(scores), len(scores), key, ties, 0)[0]


def find_cut(chunks: Callable[[], Iterable[np.ndarray]], discard_fraction: float) -> Cut:
    """Find where ``select_tokens`` would cut scores that do not fit in memory.

    Memory depends on neither the number of chunks nor, beyond one of them, their size.

    Args:
        chunks: each call streams the same float32 arrays ``[n]`` in the same order; it is called twice.
        discard_fraction: share of all tokens to drop, in [0, 1).

    Returns:
        The cut, for ``apply_cut``.

    Raises:
        ValueError: a score is NaN or infinite (the message has chunk and index), a chunk is not one-dimensional,
            ``discard_fraction`` is not in [0, 1), or the second call streamed other scores than the first.
        TypeError: a chunk is not float32.
    """
    discard_count(0, discard_fraction)  # refused before anything is read

    def keys() -> Iterator[np.ndarray]:
        for number, chunk in enumerate(chunks()):
            name = f"chunk {number}: scores"
            yield from _keys(_float32(chunk, name), name)

    tokens, discarded, key, ties = _count_down(keys, 32, discard_fraction)
    return Cut(tokens, discarded, None if key is None else score_of(key), ties)


def apply_cut(scores: np.ndarray, cut: Cut, ties_before: int) -> tuple[np.ndarray, int]:
    """Mask one chunk; over all chunks in order, the masks are that of ``select_tokens`` on the whole.

    Args:
        scores: one chunk, float32 ``[n]``.
        cut: from ``find_cut`` over all chunks.
        ties_before: how many tokens of earlier chunks equal the threshold; 0 for the first chunk.

    Returns:
        keep, bool ``[n]``, and ``ties_before`` for the next chunk.

    Raises:
        ValueError: a score is NaN or infinite, or ``scores`` is not one-dimensional.
        TypeError: ``scores`` is not float32.
    """
    scores = _float32(scores, "scores")
    key = None if cut.threshold is None else int(ordered(np.array([cut.threshold], dtype=np.float32))[0])
    return _mask(_keys(scores), len(scores), key, cut.ties, ties_before)


def select_in_rows(scores: Sequence[np.ndarray], discard_fraction: float) -> list[np.ndarray]:
    """Apply the rule of ``select_tokens`` inside each row (``scope: row``).

    Args:
        scores: one float32 array ``[n]`` a row.
        discard_fraction: share of each row's tokens to drop, in [0, 1).

    Returns:
        One keep mask a row, bool ``[n]``.

    Raises:
        ValueError: as ``select_tokens``, with the row's index.
        TypeError: as ``select_tokens``, with the row's index.
    """
    discard_count(0, discard_fraction)
    masks = []
    for row, row_scores in enumerate(scores):
        try:
            masks.append(select_tokens(row_scores, discard_fraction))
        except (TypeError, ValueError) as error:
            raise type(error)(f"row {row}: {error}") from error
    return masks


def _count_down(
    keys: Callable[[], Iterable[np.ndarray]], bits: int, discard_fraction: float
) -> tuple[int, int, int | None, int]:
    """Radix search: tokens, discarded, key of the lowest dropped score (None if none is), ties to drop."""
    prefix = rank = tokens = discarded = expected = 0
    for shift in range(bits - _DIGIT, -1, -_DIGIT):
        counts = np.zeros(1 << _DIGIT, dtype=np.int64)
        first = shift == bits - _DIGIT
        for part in keys():
            inside = part if first else part[part >> (shift + _DIGIT) == prefix]
            digits = (inside >> shift).astype(np.uint16)  # the cast leaves the lower 16 bits
            counts += np.bincount(digits, minlength=len(counts))
        if first:
            tokens = int(counts.sum())
            rank = discarded = discard_count(tokens, discard_fraction)
            if not discarded:
                return tokens, 0, None, 0
        elif counts.sum() != expected:
            raise ValueError("the scores changed between two passes; each call of chunks() must stream the same")
        at_least = np.cumsum(counts[::-1])[::-1]  # [digit]: how many keys have this digit or a higher one
        digit = int(np.flatnonzero(at_least >= rank)[-1])
        expected = int(counts[digit])
        rank -= int(at_least[digit]) - expected
        prefix = prefix << _DIGIT | digit
    return tokens, discarded, prefix, rank


def _lowest_dropped(keys: np.ndarray, discarded: int) -> tuple[int, int]:
    """Key of the lowest dropped score and ties to drop, where clearing histograms would take longer than this."""
    key = np.partition(keys, -discarded)[-discarded]
    return int(key), discarded - int(np.count_nonzero(keys > key))


def _mask(
    parts: Iterable[np.ndarray], tokens: int, key: int | None, ties: int, ties_before: int
) -> tuple[np.ndarray, int]:
    """Keep mask of the keys that come in parts, and how many equal to the threshold there were up to its end."""
    keep = np.ones(tokens, dtype=bool)
    start = 0
    for keys in parts:
        part = keep[start : start + len(keys)]
        start += len(keys)
        if key is not None:
            np.less_equal(keys, key, out=part)
            equal = np.flatnonzero(keys == key)
            part[equal[: max(ties - ties_before, 0)]] = False
            ties_before += len(equal)
    return keep, ties_before


def _keys(scores: np.ndarray, name: str = "scores") -> Iterator[np.ndarray]:
    """Keys of the scores, part by part; a score that is not finite is refused."""
    for start in range(0, len(scores), PART):
        part = scores[start : start + PART]
        finite = np.isfinite(part)
        if not finite.all():
            index = int(np.argmin(finite))
            raise ValueError(
                f"{name}[{start + index}] is {part[index]}; only finite scores can be ranked: see which reference "
                "gives no finite loss for that token"
            )
        yield ordered(part)


def ordered(scores: np.ndarray) -> np.ndarray:
    """Unsigned integers of the scores' width, in the same order; -0.0 and 0.0 get the same one.

    Integer arithmetic throughout, so a thread that flushes denormals to zero ranks them all the same.
    """
    width = scores.dtype.itemsize
    bits = np.ascontiguousarray(scores, dtype=scores.dtype.newbyteorder("=")).view(f"i{width}")
    sign = bits >> (8 * width - 1)  # -1 or 0
    keys = bits & ((1 << (8 * width - 1)) - 1)  # the magnitude
    keys ^= sign  # these two lines negate where sign is -1; np.where is several times slower on mixed signs
    keys -= sign
    return keys.view(f"u{width}") ^ (1 << (8 * width - 1))


def score_of(key: int) -> float:
    """The float32 score of a 32-bit key."""
    signed = key - (1 << 31)
    return float(np.int32(signed if signed >= 0 else -(1 << 31) - signed).view(np.float32))


def _vector(scores: np.ndarray, name: str = "scores") -> np.ndarray:
    scores = np.asarray(scores)
    if scores.ndim != 1:
        raise ValueError(f"{name} has shape {scores.shape}; one dimension is needed, one score a response token")
    if scores.dtype.kind != "f" or scores.dtype.itemsize > 8:
        raise TypeError(f"{name} has dtype {scores.dtype}; float16, float32 or float64 is needed")
    return scores


def _float32(scores: np.ndarray, name: str) -> np.ndarray:
    scores = _vector(scores, name)
    if scores.dtype.itemsize != 4:
        raise TypeError(f"{name} has dtype {scores.dtype}; float32 is needed, as the scores are stored")
    return scores
