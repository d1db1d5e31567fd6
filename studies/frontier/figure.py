"""The frontier figures: what a method keeps or learns, against its share of standard SFT's gain; SVG by itself."""

from __future__ import annotations

from collections.abc import Sequence

from studies.frontier.curves import Curves
from studies.frontier.entries import STANDARD, method_of
from studies.frontier.standing import others, ours

from tosslm.report.charts import Series, line_chart

SHOWN = 6
"""Lines in one figure: that many colours and dash patterns there are."""
_DASHES = ("", "6 3", "2 3", "8 3 2 3", "12 4", "1 5")
_COLOURS = ("#0b5fa5", "#6b747e", "#a4460a", "#1d7a46", "#7a3ea0", "#9a7b00")
_STYLE = (
    "<style>svg { font: 13px system-ui, sans-serif; background: #fff; } text { fill: #4a545e; } "
    ".grid { stroke: #e2e6ea; } .zero, .axis { stroke: #8a949e; } .line { fill: none; stroke-width: 2; } "
    + " ".join(
        f".line.c{number} {{ stroke: {colour}; stroke-dasharray: {dash or 'none'}; }}"
        for number, (colour, dash) in enumerate(zip(_COLOURS, _DASHES, strict=True), 1)
    )
    + "</style>"
)


def draw(curves: Curves, entries: Sequence[str], metric: str, y_label: str) -> str:
    """One metric against utility, a line an entry; the first entries stand in front.

    Args:
        curves: of one setting.
        entries: what is drawn, at most ``SHOWN``.
        metric: what is drawn upwards.
        y_label: its name.
    """
    drawn = [entry for entry in entries if curves.has(entry, metric)][:SHOWN]
    series = [
        Series(entry, number, curves.gain(entry)[0].tolist(), curves.curve(entry, metric)[0].tolist())
        for number, entry in enumerate(drawn, 1)
    ]
    chart = line_chart(series, x_label="share of standard SFT's gain in utility", y_label=y_label)
    head, rest = str(chart).split(">", 1)
    about = f"{y_label} against the share of standard SFT's gain"
    return f'{head} role="img" aria-label="{about}" xmlns="http://www.w3.org/2000/svg">{_STYLE}{rest}\n'


def key(entries: Sequence[str]) -> str:
    """Which line is whose, in words."""
    names = ("solid blue", "dashed grey", "dotted orange", "dash-dotted green", "long-dashed purple", "sparse ochre")
    return "; ".join(f"{name}: `{entry}`" for name, entry in zip(names, entries, strict=False))


def drawn_entries(curves: Curves, harm: str, target: float) -> list[str]:
    """Ours, standard SFT and what knows the harm; then the rivals that learn least harm, one of each method."""
    own = ours(curves)
    first = [own, STANDARD] if own else [STANDARD]
    first += [entry for entry in curves.table if entry in ("oracle", "oracle-tokens")]
    rest = [entry for entry in others(curves) if entry not in first]
    found = {entry: one.value for entry in rest if (one := curves.reading(entry, harm, target))}
    nearest = sorted(found, key=lambda entry: -found[entry])
    methods = dict.fromkeys(method_of(entry).name for entry in nearest)
    rivals = [next(entry for entry in nearest if method_of(entry).name == method) for method in methods]
    return [*first, *rivals, *(entry for entry in rest if entry not in found)][:SHOWN]
