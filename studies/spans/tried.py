"""Kinds of evidence that were tried beside the posterior: pure functions of what a run knows without marks.

Each takes a ``Case`` and gives a value for each response token of the custom set, float64 ``[N]``, high meaning
unsafe. ``CANDIDATES`` has them all.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, partial

import numpy as np
from studies.spans.states import States, learn_states

from tosslm.selection.chain import Chain, improve_chain, learn_chain, passes
from tosslm.selection.evidence import ITERATIONS, START, TOLERANCE, Evidence, learn_evidence

Signal = Callable[["Case"], np.ndarray]


@dataclass(frozen=True)
class Tokens:
    """Response tokens of some rows, rows one after the other.

    Attributes:
        scores: floats ``[N]``.
        lengths: int ``[R]``, tokens of each row, 1 or more.
        over_base: floats ``[N]``: loss of the base less that of the degraded reference, where it is known.
    """

    scores: np.ndarray
    lengths: np.ndarray
    over_base: np.ndarray | None = None


@dataclass(frozen=True)
class Case:
    """What evidence may be learnt from: never marks of the custom set.

    Attributes:
        custom: the custom set.
        harmful: the held-out harmful rows.
        utility: the held-out utility rows.
        words: int ``[N]``: the word that each custom token is part of, rising from 0; a word lies in one row.
    """

    custom: Tokens
    harmful: Tokens
    utility: Tokens
    words: np.ndarray

    @cached_property
    def evidence(self) -> Evidence:
        """As a run learns it."""
        return learn_evidence(self.utility.scores, self.harmful.scores, self.harmful.lengths)

    @cached_property
    def ratios(self) -> np.ndarray:
        """Evidence of the custom tokens, ``[N]``."""
        return self.evidence(self.custom.scores)

    @cached_property
    def chain(self) -> Chain:
        """Learnt on the custom set, as a run learns it."""
        return _learnt(self.ratios, self.custom.lengths)


def token(case: Case) -> np.ndarray:
    """The score itself."""
    return case.custom.scores.astype(np.float64)


def posterior(case: Case) -> np.ndarray:
    """As ``selection.evidence: posterior`` has it."""
    return _log_odds(case.ratios, case.custom.lengths, case.chain)


def chain_of_harmful_rows(case: Case) -> np.ndarray:
    """Both probabilities as the held-out harmful rows have them."""
    return _log_odds(case.ratios, case.custom.lengths, case.evidence.chain)


def leave_of_harmful_rows(case: Case) -> np.ndarray:
    """How long harm lasts from the held-out harmful rows, how often it begins from the custom set."""
    chain = Chain(START.enter, case.evidence.chain.leave)
    for _ in range(ITERATIONS):
        filtered, ahead = passes(case.ratios, case.custom.lengths, chain)
        step = improve_chain(chain, case.ratios, case.custom.lengths, filtered, ahead)
        done = abs(step.enter - chain.enter) < 1e-6
        chain = replace(chain, enter=step.enter)
        if done:
            break
    return _log_odds(case.ratios, case.custom.lengths, chain)


def learnt_on_pairs(case: Case) -> np.ndarray:
    """The chain learnt on neighbours alone, so that what a whole row has in common cannot lengthen its runs."""
    starts = np.cumsum(case.custom.lengths) - case.custom.lengths
    after = np.setdiff1d(np.arange(len(case.ratios)), starts)
    pairs = case.ratios[np.column_stack([after - 1, after])].ravel()
    return _log_odds(case.ratios, case.custom.lengths, _learnt(pairs, np.full(len(after), 2)))


def row_state(case: Case) -> np.ndarray:
    """A row is clean or touched, and only a touched one has a chain."""
    steps = np.array([[1.0, 0.0, 0.0], [0.0, 0.9, 0.1], [0.0, 0.5, 0.5]])
    return _in_states(case, States(np.array([0.5, 0.4, 0.1]), steps), unsafe=(2,))


def row_classes(case: Case) -> np.ndarray:
    """A row has one of two chains, one of short runs and one of long ones."""
    steps = np.zeros((4, 4))
    steps[:2, :2] = [[0.95, 0.05], [0.7, 0.3]]
    steps[2:, 2:] = [[0.95, 0.05], [0.1, 0.9]]
    return _in_states(case, States(np.array([0.45, 0.05, 0.35, 0.15]), steps), unsafe=(1, 3))


def short_and_long_runs(case: Case) -> np.ndarray:
    """In one chain, two unsafe states: one is left soon, one late."""
    steps = np.array([[0.94, 0.05, 0.01], [0.7, 0.3, 0.0], [0.05, 0.0, 0.95]])
    return _in_states(case, States(np.array([0.8, 0.1, 0.1]), steps), unsafe=(1, 2))


def two_phases(case: Case) -> np.ndarray:
    """A run goes through two states in series: its length is a sum of two geometric ones."""
    steps = np.array([[0.95, 0.05, 0.0], [0.0, 0.5, 0.5], [0.5, 0.0, 0.5]])
    return _in_states(case, States(np.array([0.8, 0.1, 0.1]), steps), unsafe=(1, 2))


def tempered(case: Case, power: float) -> np.ndarray:
    """Evidence to a power below 1 throughout, as if fewer tokens had spoken: for evidence that is not independent."""
    ratios = power * case.ratios
    return _log_odds(ratios, case.custom.lengths, _learnt(ratios, case.custom.lengths))


def evidence_and_context(case: Case, share: float) -> np.ndarray:
    """A token's own evidence, and a share of what its row adds to it."""
    return case.ratios + share * _context(case)


def score_and_context(case: Case, share: float) -> np.ndarray:
    """The token's score as it is instead of its evidence, and a share of what its row adds."""
    return token(case) + share * _context(case)


def word_and_context(case: Case, share: float) -> np.ndarray:
    """The scores of the token's word, and a share of what its row adds."""
    return sum_over_a_word(case) + share * _context(case)


def larger_of_both(case: Case) -> np.ndarray:
    """The larger of a token's log-odds in its row and by itself."""
    return np.maximum(posterior(case), case.ratios + np.log(case.chain.enter / case.chain.leave))


def sum_over_a_word(case: Case) -> np.ndarray:
    """Scores added up over each word, without a chain."""
    return np.bincount(case.words, weights=case.custom.scores)[case.words]


def chain_over_words(case: Case) -> np.ndarray:
    """The chain goes from word to word; a word's evidence is the sum over its tokens."""
    starts = np.cumsum(case.custom.lengths) - case.custom.lengths
    lengths = np.diff(np.append(case.words[starts], case.words[-1] + 1))
    ratios = np.bincount(case.words, weights=case.ratios)
    return _log_odds(ratios, lengths, _learnt(ratios, lengths))[case.words]


def three_losses(case: Case) -> np.ndarray:
    """The base's loss as a third: a mixture of both differences to the degraded loss, the one that gains most."""
    mixtures = [_mixed(case, share) for share in (0.0, 0.25, 0.5, 0.75, 1.0)]
    return posterior(max(mixtures, key=lambda one: one.evidence.gain))


CANDIDATES: dict[str, Signal] = {
    "token score": token,
    "posterior": posterior,
    "chain of the harmful rows": chain_of_harmful_rows,
    "leave of the harmful rows": leave_of_harmful_rows,
    "chain learnt on pairs": learnt_on_pairs,
    "row state above the chain": row_state,
    "a short or a long chain a row": row_classes,
    "short and long runs": short_and_long_runs,
    "runs of two phases": two_phases,
    "evidence to the power 1/3": partial(tempered, power=1 / 3),
    "evidence to the power 1/2": partial(tempered, power=1 / 2),
    "evidence to the power 2/3": partial(tempered, power=2 / 3),
    "evidence, half of the context": partial(evidence_and_context, share=1 / 2),
    "evidence, a quarter of it": partial(evidence_and_context, share=1 / 4),
    "score, half of the context": partial(score_and_context, share=1 / 2),
    "score, a quarter of it": partial(score_and_context, share=1 / 4),
    "word, half of the context": partial(word_and_context, share=1 / 2),
    "word, a quarter of it": partial(word_and_context, share=1 / 4),
    "larger of both log-odds": larger_of_both,
    "scores summed over a word": sum_over_a_word,
    "chain over words": chain_over_words,
}
NEED_BASE: dict[str, Signal] = {"three losses": three_losses}


def _mixed(case: Case, share: float) -> Case:
    def mixed(tokens: Tokens) -> Tokens:
        assert tokens.over_base is not None, "three losses need those of the base"
        return replace(tokens, scores=(1 - share) * tokens.scores + share * tokens.over_base)

    return replace(case, custom=mixed(case.custom), harmful=mixed(case.harmful), utility=mixed(case.utility))


def _context(case: Case) -> np.ndarray:
    """What its row adds to a token's own evidence, in nats."""
    return posterior(case) - case.ratios


def _learnt(ratios: np.ndarray, lengths: np.ndarray) -> Chain:
    return learn_chain(ratios, lengths, START, iterations=ITERATIONS, tolerance=TOLERANCE).chain


def _log_odds(ratios: np.ndarray, lengths: np.ndarray, chain: Chain) -> np.ndarray:
    filtered, ahead = passes(ratios, lengths, chain)
    return filtered + ahead


def _in_states(case: Case, start: States, unsafe: tuple[int, ...]) -> np.ndarray:
    """Log-odds of being in one of the unsafe states, the chain learnt on the custom set from a first guess."""
    is_unsafe = np.isin(np.arange(len(start.first)), unsafe)
    _, found = learn_states(case.ratios[:, None] * is_unsafe, case.custom.lengths, start)
    risky, safe = (np.maximum(found.states[:, which].sum(axis=1), 1e-300) for which in (is_unsafe, ~is_unsafe))
    return np.log(risky) - np.log(safe)
