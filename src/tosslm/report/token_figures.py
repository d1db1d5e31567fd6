"""Figures of the custom set's tokens, each from a pass over them."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np
from sklearn.metrics import precision_recall_curve

from tosslm.findings.spans import tallied
from tosslm.report.charts import DENSITY_BINS, Series, density_chart, line_chart
from tosslm.report.figures import FEW, Figure
from tosslm.report.tokens import CustomTokens, Ranking
from tosslm.selection.order import quantiles, quantiles_of_groups
from tosslm.text import number

SHOWN_SOURCES = 6
_SHARES = (0.1, 0.5, 0.9)
_PLACES = 1 << 16


def distributions(tokens: CustomTokens, ranking: Ranking) -> list[Figure]:
    """How the evidence is spread over the tokens of each source."""
    values, sizes = ranking.values, tokens.by_source(lambda block: block.lengths)
    shown = min(len(sizes), SHOWN_SOURCES)
    low, high = quantiles(lambda: (values[block.tokens] for block in tokens.blocks()), len(values), [0.001, 0.999])
    low, high = (low - 0.5, high + 0.5) if low == high else (low, high)
    bins = np.linspace(low, high, DENSITY_BINS + 1)
    counts = np.zeros((shown, DENSITY_BINS), dtype=np.int64)

    def parts() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for block in tokens.blocks():
            source = block.repeated(tokens.source)
            yield values[block.tokens][source < shown], source[source < shown]

    for some, source in parts():
        for i in range(shown):
            counts[i] += np.histogram(np.clip(some[source == i], low, high), bins)[0]
    figures = []
    for i, (low_end, median, high_end) in enumerate(quantiles_of_groups(parts, sizes[:shown].tolist(), _SHARES)):
        svg = density_chart(counts[i], low, high, x_label=f"{ranking.label.lower()}, {ranking.unit}")
        note = (
            f"Median {number(median, '+.2f')}, middle 80% from {number(low_end, '+.2f')} to "
            f"{number(high_end, '+.2f')} {ranking.unit}; {sizes[i]:,} tokens."
        )
        figures.append(Figure(tokens.sources[i], svg, note))
    return figures


def position_profile(tokens: CustomTokens) -> Figure | None:
    """The share dropped at each position of an answer, in steps wide enough to be steady."""
    reached, gone = np.zeros(_PLACES, dtype=np.int64), np.zeros(_PLACES)
    for block in tokens.blocks():
        place = tokens.place[block.tokens]
        reached += np.bincount(place, minlength=_PLACES)
        gone += np.bincount(place, tokens.gone[block.tokens], _PLACES)
    if not reached[FEW - 1]:
        return None
    longest = int((reached >= 0.05 * reached[0]).sum())  # so far one answer in twenty reaches
    step = max(1, -(-longest // 48))
    part = np.arange(longest) // step
    counts = np.bincount(part, reached[:longest]).astype(np.int64)
    shares = np.bincount(part, gone[:longest]) / counts
    xs = [float(i * step + (step - 1) / 2 + 1) for i in range(len(counts))]
    whole = float(gone.sum() / reached.sum())
    line = Series("dropped", 2, xs, shares.tolist())
    even = Series("all positions", 3, [xs[0], xs[-1]], [whole, whole])
    svg = line_chart([line, even], x_label="position in the answer", y_label="share dropped", floor=0, percent=True)
    first = float(gone[:FEW].sum() / reached[:FEW].sum())
    note = f"Of the first five tokens {first:.0%} were dropped, of all tokens {whole:.0%}."
    rows = [[f"{x:g}", f"{share:.1%}", f"{n:,}"] for x, share, n in zip(xs, shares, counts, strict=True)]
    return Figure(
        "Where in an answer",
        svg,
        note,
        [("dropped", 2), ("all positions", 3)],
        ("position", "dropped", "tokens"),
        rows,
    )


def precision_recall(tokens: CustomTokens) -> Figure | None:
    """How well each kind of evidence finds the marked unsafe text; None where nothing is marked, or scored."""
    marked = int(tokens.lengths[tokens.marked].sum())
    unsafe = sum(int(tokens.unsafe[block.tokens].sum()) for block in tokens.blocks())
    if not tokens.rankings or unsafe in (0, marked):
        return None
    lines, rows = [], []
    colours = (1, 2, 4)  # 3 is that of chance
    for ranking, colour in zip(tokens.rankings, colours, strict=False):
        found = tallied(partial(_marked, tokens, ranking))
        precision, recall, _ = precision_recall_curve(found.unsafe, found.scores, sample_weight=found.times)
        # The curve has a point a token; 200 steps of recall draw the same line.
        steps = np.unique(np.searchsorted(-recall, -np.linspace(1, 0.005, 200)).clip(0, len(recall) - 1))
        lines.append(Series(ranking.label.lower(), colour, recall[steps].tolist(), precision[steps].tolist()))
        quality = found.quality()
        rows.append([ranking.label, f"{quality['average_precision']:.3f}", f"{quality['auroc']:.3f}"])
    base = unsafe / marked
    lines.append(Series("chance", 3, [0.0, 1.0], [base, base]))
    svg = line_chart(
        lines,
        x_label="recall: share of the unsafe tokens found",
        y_label="precision",
        floor=0,
    )
    own = rows[tokens.own_kind or 0]
    note = f"{own[0]}: average precision {own[1]}, AUROC {own[2]}; guessing has average precision {base:.3f}."
    legend = [(line.name, line.colour) for line in lines]
    return Figure(
        "Against the marked unsafe text", svg, note, legend, ("evidence", "average precision", "AUROC"), rows
    )


def _marked(tokens: CustomTokens, ranking: Ranking) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Of the tokens of marked rows, whether each holds marked text, and its value."""
    for block in tokens.blocks():
        own = block.repeated(tokens.marked)
        yield tokens.unsafe[block.tokens][own], ranking.values[block.tokens][own]
