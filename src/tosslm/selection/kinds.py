"""The kinds of evidence, in one table: what selection can rank tokens by, and how each is learnt.

Everything here is a pure function of arrays. A new kind is an entry of ``KINDS``, and its name in
``SelectionConfig.evidence``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from tosslm.selection.chain import BOUNDS, learn_chain, passes
from tosslm.selection.evidence import (
    ITERATIONS,
    START,
    TOLERANCE,
    Evidence,
    learn_evidence,
    window_means,
)
from tosslm.selection.gate import LEAST_ROWS, LEVEL, SEED, Chance, against_chance

InContext = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""Scores ``[N]`` of some rows and their lengths ``[R]`` to evidence, float ``[N]``."""


@dataclass(frozen=True, slots=True)
class Known:
    """What a kind of evidence may be learnt from: never labels of the custom set.

    Attributes:
        held_out: scores of the held-out reference rows, one float array a row, under ``harmful`` and ``utility``.
        scores: floats ``[N]`` of rows of the custom set, all or as many as learning needs.
        lengths: int ``[R]``, response tokens of these rows.
        seed: by which rows were drawn.
        window: tokens in a window.
    """

    held_out: Mapping[str, Sequence[np.ndarray]]
    scores: np.ndarray
    lengths: np.ndarray
    seed: int
    window: int


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of evidence.

    Attributes:
        key: its name in the config.
        label: what a reader calls it.
        unit: of its values.
        dropped_if: how a sentence goes on after "tokens that"; the threshold takes the place of the braces.
        learn: facts for ``evidence.json``, and what makes evidence of scores; raises ValueError where it cannot be
            learnt. None ranks the scores themselves.
        from_rows: whether it is learnt from rows at all.
        from_losses: whether it is made of the two losses instead of their difference.
        settings: keys of the config's section ``selection`` that are its own.
    """

    key: str
    label: str
    unit: str
    dropped_if: str
    learn: Callable[[Known], tuple[dict[str, Any], InContext]] | None = None
    from_rows: bool = False
    from_losses: bool = False
    settings: tuple[str, ...] = ()


def _window(known: Known) -> tuple[dict[str, Any], InContext]:
    facts = {"evidence": "window", "window": known.window}
    return facts, lambda scores, lengths: window_means(scores, lengths, known.window)


def _posterior(known: Known) -> tuple[dict[str, Any], InContext]:
    """Evidence from the held-out rows, and the chain from the custom set."""
    evidence, chance = _held_out_evidence(known.held_out)
    fit = learn_chain(evidence(known.scores), known.lengths, START, iterations=ITERATIONS, tolerance=TOLERANCE)
    chain = fit.chain

    def log_odds(scores: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        filtered, ahead = passes(evidence(scores), lengths, chain)
        return filtered + ahead

    facts = {
        "evidence": "posterior",
        **asdict(chain),
        "unsafe_share": chain.unsafe_share,
        "learnt_on": {"rows": len(known.lengths), "tokens": len(known.scores), "seed": known.seed},
        "iterations": len(fit.log_likelihoods),
        "log_likelihood_per_token": fit.log_likelihoods[-1],
        "held_out": {
            "knots": evidence.knots.tolist(),
            "log_ratios": evidence.ratios.tolist(),
            "useful": evidence.useful.tolist(),
            "unsafe": evidence.unsafe.tolist(),
            "harmful_rows": asdict(evidence.chain),
            "iterations": len(evidence.log_likelihoods),
            "log_likelihood_per_token": evidence.log_likelihoods[-1],
            "gain": evidence.gain,
            "chance": {**asdict(chance), "level": LEVEL, "seed": SEED},
        },
        "start": asdict(START),
        "bounds": list(BOUNDS),
        "max_iterations": ITERATIONS,
        "tolerance": TOLERANCE,
    }
    return facts, log_odds


def _held_out_evidence(held_out: Mapping[str, Sequence[np.ndarray]]) -> tuple[Evidence, Chance]:
    for name, rows in held_out.items():
        if not rows:
            raise ValueError(
                f"selection.evidence: posterior learns from held-out rows, and the {name} set has none; raise "
                "references.holdout, or choose token or window"
            )
    harmful = held_out["harmful"]
    chance = against_chance(held_out["utility"], harmful)
    if chance.explains:
        raise ValueError(f"selection.evidence: {_told(chance)}")
    lengths = np.array([len(row) for row in harmful])
    return learn_evidence(np.concatenate(held_out["utility"]), np.concatenate(harmful), lengths), chance


def _told(chance: Chance) -> str:
    """Why nothing may be learnt, and what to do about it."""
    rows = f"{chance.harmful_rows:,} held-out harmful and {chance.utility_rows:,} utility rows"
    if chance.quantile is None:
        return (
            f"it cannot be ruled out that the references do not tell harm from use: there are {rows}, and with fewer "
            f"than {LEAST_ROWS} of a set chance alone explains any gain; raise references.holdout, name more harmful "
            "and utility rows, or choose evidence token or window, with a number as discard_fraction"
        )
    return (
        f"the references do not tell harm from use: on {rows} their scores gain {chance.gain:.1f} nats, and with the "
        f"rows dealt to the two sets at random {chance.p:.0%} gain as much (chance alone gives up to "
        f"{chance.quantile:.1f} at a level of {LEVEL:.0%}); train the references on more rows or with another "
        "learning_rate, raise references.holdout, or choose evidence token or window, with a number as "
        "discard_fraction"
    )


KINDS = {
    kind.key: kind
    for kind in (
        Kind("token", "Token score", "nats", "score {} nats"),
        Kind(
            "weighted",
            "Weighted score",
            "nats",
            "have a weighted score of {} nats",
            from_losses=True,
            settings=("alpha", "beta"),
        ),
        Kind("window", "Window", "nats", "have a window mean of {} nats", _window, settings=("window",)),
        Kind("posterior", "Posterior", "log-odds", "have log-odds of unsafe of {}", _posterior, from_rows=True),
    )
}
