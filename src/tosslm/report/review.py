"""The page on which a person decides: the report's rows, nearest to the cut first, with decisions that are saved."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from tosslm.findings.measured import Measured
from tosslm.report.charts import bar
from tosslm.report.embed import MAX_BYTES, MAX_ROWS, choose_rows, row_sizes
from tosslm.report.page import fitted
from tosslm.report.sections import Page
from tosslm.report.shell import coded, dress, environment
from tosslm.report.tokens import CustomTokens, load_tokens
from tosslm.runs.decisions import record_of
from tosslm.runs.reader import Run
from tosslm.selection.decided import OPEN, Decision

NEAR = 0.25
"""How much of what is dropped counts as near the cut, on either side of it; the page's ``cut.js`` has the same."""
Served = Callable[[Sequence[Decision], str], str]
"""The page, of what is decided and the version of the file that it is from."""


def near_cut(tokens: CustomTokens, discard_fraction: float) -> np.ndarray:
    """How many tokens of each row stand near the cut: the last quarter of those that go, and as many behind it.

    Ranks are what counts, not scores: so it is the same share of tokens whatever the scores look like. Tokens that
    people decided are not near.

    Args:
        tokens: all tokens, with a ranking.
        discard_fraction: the run's own.

    Returns:
        int64 ``[R]``.
    """
    assert tokens.shown is not None
    limits = tokens.limits(discard_fraction)
    before, behind = (np.ceil((1 + way * NEAR) * limits).astype(np.int64) for way in (-1, 1))
    behind = np.minimum(behind, tokens.lengths if tokens.in_rows else len(tokens.gone))
    near = np.zeros(len(tokens.lengths), dtype=np.int64)
    first = (tokens.first(tokens.shown, some) for some in (before, behind))
    for block, sure, either in zip(tokens.blocks(), *first, strict=True):
        own = either & ~sure
        if tokens.decided is not None:
            own &= tokens.decided[block.tokens] == OPEN
        near[block.rows] = block.sums(own)
    return near


def review_page(run: Run, *, file: str, by: str, max_bytes: int = MAX_BYTES) -> Served:
    """The page, made once but for what changes as people decide.

    Args:
        run: a run whose selection is done.
        file: where decisions are saved, as the page says it.
        by: who decides; may be empty.
        max_bytes: how large it may become; rows far from the cut are left out first.
    """
    page = Page(run, load_tokens(run), None, Measured())
    tokens, templates = page.tokens, environment(bar=bar)
    selection = run.stages["selection"]

    def choose(text_bytes: np.ndarray, budget: float) -> dict[str, np.ndarray]:
        if tokens.shown is None:
            return choose_rows(tokens, text_bytes, budget, run.config.seed)
        return _nearest(tokens, near_cut(tokens, page.discard_fraction), text_bytes, budget)

    def render(block: str, chosen: Mapping[str, np.ndarray], decisions: Sequence[Decision], version: str) -> str:
        return templates.get_template("review.html").render(
            name=run.path.resolve().name,
            tokens=tokens,
            cut=f"{selection['discarded']:,}",
            file=file,
            shown={name: len(rows) for name, rows in chosen.items()},
            review={"version": version, "by": by},
            decisions=coded([record_of(decision) for decision in decisions]),
            block=block,
            **dress(saves=True),
        )

    _, block, chosen = fitted(page, choose, lambda block, chosen: render(block, chosen, (), ""), max_bytes)
    return lambda decisions, version: render(block, chosen, decisions, version)


def _nearest(tokens: CustomTokens, near: np.ndarray, text_bytes: np.ndarray, budget: float) -> dict[str, np.ndarray]:
    """All rows where they fit, else those with the most tokens near the cut; the smallest where none does."""
    sizes = row_sizes(tokens, text_bytes)
    if sizes.sum() <= budget and len(sizes) <= MAX_ROWS:
        return {"all": np.arange(len(sizes))}
    order = np.argsort(-near, kind="stable")
    order = order[sizes[order] <= budget]
    fits = (np.cumsum(sizes[order]) <= budget) & (np.arange(len(order)) < MAX_ROWS)
    return {"near": order[fits]} if fits.any() else {"smallest": np.array([np.argmin(sizes)])}
