"""What tokens of a run can be ranked by, learnt from what lies on disk."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tosslm.config import Config
from tosslm.errors import InputError, TosslmError
from tosslm.ragged import split_rows
from tosslm.runs.layout import HELDOUT
from tosslm.runs.tables import Parts, finite_scores, held_out_scores
from tosslm.selection.control import sets_threshold
from tosslm.selection.gate import LEAST_ROWS
from tosslm.selection.joining import trusted_count
from tosslm.selection.kinds import KINDS, InContext, Kind, Known

LEARNING_TOKENS = 2_000_000
"""Evidence for a larger custom set is learnt on about this many tokens of it, in rows drawn at random."""
QUICK_TOKENS = 200_000
"""What a posterior that selection does not need is learnt on: seconds, where all of a large set take minutes."""

_TOKENS_AT_ONCE = 1_000_000


def learn_ranking(
    kind: Kind,
    scores: Path,
    *,
    seed: int,
    window: int = 1,
    learning_tokens: int | None = None,
    of: Callable[[str], bool] = lambda _: True,
    parts: Callable[[], Parts] | None = None,
) -> tuple[dict[str, Any], InContext]:
    """Learn what turns scores into evidence.

    Args:
        kind: of evidence.
        scores: folder of a round's parts, with its held-out rows.
        seed: of the rows that are learnt on, where not all are taken.
        window: tokens in a window.
        learning_tokens: about how many tokens of the custom set, and at most about how many held-out ones of each
            reference set, are learnt on; None for ``LEARNING_TOKENS`` and all held-out ones.
        of: which held-out rows are learnt from, by the id of their content.
        parts: streams the custom set's scores where that is quicker than reading the folder's parts.

    Returns:
        What was learnt, for ``evidence.json``; and a function that takes the scores ``[N]`` of some rows and their
        lengths ``[R]`` and gives their evidence, float ``[N]``.

    Raises:
        TosslmError: a score is not finite, or nothing can be learnt, such as where the references do not tell harm
            from use.
    """
    assert kind.learn is not None, f"{kind.key} ranks scores as they are"
    known = Known({}, np.zeros(0), np.zeros(0, dtype=np.int64), seed, window)
    if kind.from_rows:
        sample, lengths = _sample(parts or (lambda: finite_scores(scores)), seed, learning_tokens or LEARNING_TOKENS)
        held_out = held_out_scores(scores / HELDOUT, of)
        if learning_tokens is not None:
            held_out = {name: _thinned(rows, seed, learning_tokens) for name, rows in held_out.items()}
        known = Known(held_out, sample, lengths, seed, window)
    try:
        return kind.learn(known)
    except ValueError as error:
        raise TosslmError(str(error)) from None


def evidence_of(parts: Parts, in_context: InContext) -> Parts:
    """Evidence of parts, float64; several parts at a time, since what is walked side by side costs little more.

    Args:
        parts: of scores.
        in_context: of ``learn_ranking``.
    """
    for some in _in_groups(parts):
        lengths = [own for _, own, _ in some]
        values = in_context(np.concatenate([part for _, _, part in some]), np.concatenate(lengths))
        split = split_rows(values, [int(own.sum()) for own in lengths])
        yield from ((ids, own, part) for (ids, own, _), part in zip(some, split, strict=True))


def _in_groups(parts: Parts) -> Iterator[list[tuple[list[str], np.ndarray, np.ndarray]]]:
    group: list[tuple[list[str], np.ndarray, np.ndarray]] = []
    for part in parts:
        group.append(part)
        if sum(len(values) for _, _, values in group) >= _TOKENS_AT_ONCE:
            yield group
            group = []
    if group:
        yield group


def useful_log_odds(
    scores: Path, in_context: InContext, of: Callable[[str], bool] = sets_threshold
) -> list[np.ndarray]:
    """Log-odds of the held-out utility rows that set the threshold, float32 as they are stored, one array a row."""
    rows = [row for row in held_out_scores(scores / HELDOUT, of)["utility"] if len(row)]
    if not rows:
        return []
    lengths = np.array([len(row) for row in rows])
    return split_rows(in_context(np.concatenate(rows), lengths).astype(np.float32), lengths)


def cross_fitted_log_odds(scores: Path, *, seed: int, parts: Callable[[], Parts] | None = None) -> list[np.ndarray]:
    """Log-odds of all held-out utility rows, each half under what the other half gives; as ``useful_log_odds``.

    Args:
        scores: folder of a round's parts, with its held-out rows.
        seed: as of ``learn_ranking``.
        parts: as of ``learn_ranking``.

    Raises:
        TosslmError: a half is too small to learn from, or tells nothing.
    """
    found: list[np.ndarray] = []
    halves: list[Callable[[str], bool]] = [sets_threshold, lambda content: not sets_threshold(content)]
    for judged, taught in zip(halves, halves[::-1], strict=True):
        _, in_context = learn_ranking(KINDS["posterior"], scores, seed=seed, of=taught, parts=parts)
        found += useful_log_odds(scores, in_context, judged)
    return found


def quick_posterior(
    scores: Path, *, seed: int, parts: Callable[[], Parts] | None = None
) -> tuple[dict[str, Any], InContext] | None:
    """The posterior, learnt on ``QUICK_TOKENS``; None where selection would refuse it."""
    try:
        return learn_ranking(KINDS["posterior"], scores, seed=seed, learning_tokens=QUICK_TOKENS, parts=parts)
    except (TosslmError, ValueError):  # ValueError: a held-out score is no number
        return None


def find_unsafe(scores: Path, *, seed: int, parts: Callable[[], Parts] | None = None) -> dict[str, float] | None:
    """How much of the custom set the posterior finds unsafe, whatever selection goes by.

    Args:
        scores: folder of a round's parts, with its held-out rows.
        seed: of the rows that are learnt on, where not all are taken.
        parts: as of ``learn_ranking``.

    Returns:
        As of ``found_in``; None where no posterior can be learnt.
    """
    if (learnt := quick_posterior(scores, seed=seed, parts=parts)) is None:
        return None
    facts, log_odds = learnt
    streamed = parts() if parts else finite_scores(scores)
    return found_in((part for _, _, part in evidence_of(streamed, log_odds)), facts["unsafe_share"])


def found_in(parts: Iterable[np.ndarray], chain_share: float) -> dict[str, float]:
    """Share of tokens that are more likely unsafe than not, and of unsafe ones in the chain's long run.

    Args:
        parts: posterior log-odds of the whole set, float ``[N]`` each.
        chain_share: ``Chain.unsafe_share``.
    """
    tokens = unsafe = 0
    for part in parts:
        tokens += len(part)
        unsafe += int(np.count_nonzero(part > 0))
    return {"share": unsafe / max(tokens, 1), "chain_share": chain_share}


def _thinned(rows: list[np.ndarray], seed: int, learning_tokens: int) -> list[np.ndarray]:
    total = sum(len(row) for row in rows)
    chosen = np.random.default_rng(seed).random(len(rows)) * total < learning_tokens
    return [row for row, one in zip(rows, chosen, strict=True) if one]


def _sample(stream: Callable[[], Parts], seed: int, learning_tokens: int) -> tuple[np.ndarray, np.ndarray]:
    """Scores ``[N]`` and row lengths ``[R]`` of rows of the custom set, drawn by the seed."""
    total = sum(len(part) for _, _, part in stream())
    rng = np.random.default_rng(seed)
    parts, kept_lengths = [], []
    for _, lengths, part in stream():
        chosen = rng.random(len(lengths)) * total < learning_tokens
        parts.append(part[np.repeat(chosen, lengths)])
        kept_lengths.append(lengths[chosen])
    return np.concatenate(parts), np.concatenate(kept_lengths)


def check_held_out(config: Config, rows: Mapping[str, int]) -> None:
    """Refuse, before references are trained, sets of which too few rows are held out to learn the posterior from.

    Args:
        config: the config, with what its method sets.
        rows: of ``harmful`` and ``utility``, copies aside.

    Raises:
        InputError: names the set, its rows and how many there have to be.
    """
    share = config.references.holdout
    if config.selection.evidence != "posterior" or not share:
        return
    for name in ("harmful", "utility"):
        held = min(math.ceil(share * rows[name]), rows[name] - 1)
        if name == "utility" and config.data.utility.of_custom:
            _check_trusted(config, rows[name], held)
        elif held < LEAST_ROWS:
            least = max(math.floor((LEAST_ROWS - 1) / share) + 1, LEAST_ROWS + 1)
            raise InputError(
                f"data.{name}: of {rows[name]} rows {held} are held out (references.holdout: {share:g}), and "
                f"selection.evidence: posterior learns from at least {LEAST_ROWS}; name {least} rows or more, raise "
                "references.holdout, or choose evidence token or window, with a number as discard_fraction"
            )


def _check_trusted(config: Config, rows: int, held: int) -> None:
    """The same of rows of the custom set that stand in for a utility set, a share of which is trimmed away."""
    stay = trusted_count(held, config.data.utility.trim)
    if stay < LEAST_ROWS:
        raise InputError(
            f"data.utility.from: custom: of {rows} rows {held} are held out (references.holdout: "
            f"{config.references.holdout:g}), of which {stay} stay (data.utility.trim: "
            f"{config.data.utility.trim:g}), and selection.evidence: posterior learns from at least {LEAST_ROWS}; "
            "raise data.utility.rows where the custom set has more, or references.holdout, name a utility set in "
            "data.utility.path, or choose evidence token or window, with a number as discard_fraction"
        )
