"""Places in the order of very many scores, found by counting: the n-th highest, quantiles, cuts, and ranks of some.

Scores come in parts that can be streamed again, and nothing here holds more than a part and a few histograms. They
are float32; each becomes an unsigned integer of the same order, as in ``cut``, which is pinned down twelve bits a
pass. Everything here is pure NumPy.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np

from tosslm.selection.cut import Cut, ordered, score_of

Stream = Callable[[], Iterable[np.ndarray]]
"""Each call streams the same float32 arrays ``[n]`` in the same order."""
_DIGIT = 12
_BITS = 32


def nth_highest(keys: Stream, ranks: Sequence[int], bits: int = _BITS) -> tuple[np.ndarray, np.ndarray]:
    """The keys of some ranks.

    Args:
        keys: streams uint64 arrays, as ``Stream`` streams scores.
        ranks: from 0, the highest, to one less than there are keys.
        bits: of a key that may be set.

    Returns:
        The keys, uint64 ``[K]``; and how many keys are higher than each, int64 ``[K]``.
    """
    if not len(ranks):
        return np.zeros(0, dtype=np.uint64), np.zeros(0, dtype=np.int64)
    wanted = np.asarray(ranks, dtype=np.int64)
    prefix, above = np.zeros(len(wanted), dtype=np.uint64), np.zeros(len(wanted), dtype=np.int64)
    for shift in range(-(-bits // _DIGIT) * _DIGIT - _DIGIT, -1, -_DIGIT):
        known, of = np.unique(prefix, return_inverse=True)
        counts = _digits(keys, known, shift)
        at_least = np.cumsum(counts[:, ::-1], axis=1)[:, ::-1]  # [.., digit]: keys with this digit or a higher one
        for i, (row, rank) in enumerate(zip(of.tolist(), wanted.tolist(), strict=True)):
            digit = int(np.flatnonzero(at_least[row] > rank - above[i])[-1])
            above[i] += at_least[row, digit] - counts[row, digit]
            prefix[i] = prefix[i] << np.uint64(_DIGIT) | np.uint64(digit)
    return prefix, above


def _digits(keys: Stream, known: np.ndarray, shift: int) -> np.ndarray:
    """How often each digit follows each known beginning of a key: int64 ``[len(known), 4096]``."""
    counts = np.zeros(len(known) << _DIGIT, dtype=np.int64)
    for part in keys():
        head = part >> np.uint64(shift + _DIGIT)
        place = np.minimum(np.searchsorted(known, head), len(known) - 1)
        inside = known[place] == head
        digit = part[inside] >> np.uint64(shift) & np.uint64((1 << _DIGIT) - 1)
        counts += np.bincount((place[inside] << _DIGIT) + digit.astype(np.int64), minlength=len(counts))
    return counts.reshape(len(known), -1)


def quantiles(scores: Stream, count: int, shares: Sequence[float]) -> list[float]:
    """As ``np.quantile`` of all scores.

    Args:
        scores: streams them.
        count: how many there are, from 1.
        shares: in [0, 1].
    """

    def one_group() -> Iterable[tuple[np.ndarray, np.ndarray]]:
        return ((part, np.zeros(len(part), dtype=np.uint8)) for part in scores())

    return quantiles_of_groups(one_group, [count], shares)[0]


def quantiles_of_groups(
    parts: Callable[[], Iterable[tuple[np.ndarray, np.ndarray]]], counts: Sequence[int], shares: Sequence[float]
) -> list[list[float]]:
    """As ``np.quantile`` of each group's scores, which come mixed.

    Args:
        parts: streams scores and the group of each, from 0, below 256.
        counts: of each group's scores, from 1.
        shares: in [0, 1].
    """

    def keys() -> Iterable[np.ndarray]:
        for scores, group in parts():
            yield group.astype(np.uint64) << np.uint64(_BITS) | _keys(scores)

    behind = np.cumsum([0, *counts[:0:-1]])[::-1]  # of each group, keys of later ones, which are all higher
    places = [np.asarray(shares) * (count - 1) for count in counts]
    low = [np.floor(place).astype(np.int64) for place in places]
    high = [np.minimum(place + 1, count - 1) for place, count in zip(low, counts, strict=True)]
    ranks = [
        first + count - 1 - np.stack([a, b]) for first, count, a, b in zip(behind, counts, low, high, strict=True)
    ]
    found, _ = nth_highest(keys, np.concatenate(ranks, axis=None).tolist(), _BITS + 8)
    values = np.array([score_of(int(key) & (1 << _BITS) - 1) for key in found]).reshape(len(counts), 2, len(shares))
    return [
        [float(a + (b - a) * (place - np.floor(place))) for a, b, place in zip(*pair, where, strict=True)]
        for pair, where in zip(values, places, strict=True)
    ]


def cuts_at(scores: Stream, tokens: int, counts: Sequence[int]) -> list[Cut]:
    """Where the dropped tokens end when so many are dropped.

    Args:
        scores: streams them.
        tokens: how many there are.
        counts: how many to drop, each from 0 to ``tokens``.

    Returns:
        A cut a count, as ``find_cut`` finds it.
    """
    some = [count for count in counts if count]
    keys, above = nth_highest(lambda: map(_keys, scores()), [count - 1 for count in some])
    found = {
        count: Cut(tokens, count, score_of(key), count - higher)
        for count, key, higher in zip(some, keys.tolist(), above.tolist(), strict=True)
    }
    return [found.get(count, Cut(tokens, 0, None, 0)) for count in counts]


def dropped_by_group(
    parts: Callable[[], Iterable[tuple[np.ndarray, np.ndarray]]], groups: int, cuts: Sequence[Cut]
) -> np.ndarray:
    """How many tokens of each group are dropped at each of several cuts.

    Args:
        parts: streams scores and the group of each, from 0.
        groups: how many there are.
        cuts: of these very scores, what is dropped ascending.

    Returns:
        int64 ``[cuts, groups]``.
    """
    at = [-1 if cut.threshold is None else int(_keys(np.array([cut.threshold]))[0]) for cut in cuts]
    known = np.unique(np.array([key for key in at if key >= 0], dtype=np.uint64))
    ties = {key: [i for i, own in enumerate(at) if own == key] for key in known.tolist()}
    above = np.zeros((len(known) + 1, groups), dtype=np.int64)  # [place]: keys above so many of those known
    tied, met = np.zeros((len(cuts), groups), dtype=np.int64), np.zeros(len(known), dtype=np.int64)
    for scores, group in parts():
        keys = _keys(scores)
        below = np.searchsorted(known, keys, side="left")  # known keys that are lower
        above += np.bincount(below * groups + group, minlength=above.size).reshape(above.shape)
        same = np.flatnonzero(np.isin(keys, known))
        place = below[same]
        arrival = met[place] + arrivals(place)
        met += np.bincount(place, minlength=len(met))
        for here in np.unique(place).tolist():
            own = place == here
            for i in ties[int(known[here])]:
                first = own & (arrival < cuts[i].ties)
                tied[i] += np.bincount(group[same][first], minlength=groups)
    higher = np.cumsum(above[::-1], axis=0)[::-1]
    places = {key: place for place, key in enumerate(known.tolist())}
    none = np.zeros(groups, dtype=np.int64)
    return tied + np.array([none if key < 0 else higher[places[key] + 1] for key in at])


def ranks_of_some(parts: Callable[[], Iterable[tuple[np.ndarray, np.ndarray]]]) -> np.ndarray:
    """The places of some scores among all, 0 for the highest; equal ones as they stand.

    Args:
        parts: streams scores and which of them are meant, bool.

    Returns:
        uint32, one a score that is meant, in the order of the stream.
    """
    meant = [_keys(scores[mask]).astype(np.uint32) for scores, mask in parts()]
    known = np.unique(np.concatenate([*meant, np.zeros(0, dtype=np.uint32)]))
    del meant
    if not len(known):
        return np.zeros(0, dtype=np.uint32)
    counts, equal = np.zeros(len(known) + 1, dtype=np.int64), np.zeros(len(known), dtype=np.int64)
    of, arrived = [], []
    for scores, mask in parts():
        keys = _keys(scores).astype(np.uint32)
        place = np.searchsorted(known, keys, side="right")
        counts += np.bincount(place, minlength=len(counts))
        same = np.flatnonzero((place > 0) & (known[place - 1] == keys))
        group = place[same] - 1
        arrival = equal[group] + arrivals(group)
        equal += np.bincount(group, minlength=len(equal))
        chosen = mask[same]
        of.append(group[chosen].astype(np.uint32))
        arrived.append(arrival[chosen].astype(np.uint32))
    above = np.cumsum(counts[::-1])[::-1][1:] - equal
    return (above[np.concatenate(of)] + np.concatenate(arrived)).astype(np.uint32)


def arrivals(group: np.ndarray) -> np.ndarray:
    """How many of its own group stand before each: int64 ``[n]`` of int ``[n]``.

    Examples:
        >>> arrivals(np.array([3, 1, 3, 3, 1])).tolist()
        [0, 0, 1, 2, 1]
    """
    order = np.argsort(group, kind="stable")
    placed = group[order]
    first = np.flatnonzero(np.diff(placed, prepend=placed[:1] - 1)) if len(placed) else np.zeros(0, dtype=np.int64)
    numbers = np.arange(len(group)) - np.repeat(first, np.diff(first, append=len(group)))
    found = np.empty(len(group), dtype=np.int64)
    found[order] = numbers
    return found


def _keys(scores: np.ndarray) -> np.ndarray:
    return ordered(scores.astype(np.float32, copy=False)).astype(np.uint64)
