"""Safety against utility, one numbered point a method, as an SVG that needs nothing beside it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from studies.safety.quality import Split
from studies.safety.settings import OURS, STANDARD, UNTRAINED

from tosslm.report.charts import Point, point_chart
from tosslm.statistics import Interval

_STYLE = """<style>
svg { font: 13px system-ui, sans-serif; background: #fff; }
text { fill: #4a545e; } .name { fill: #14181c; font-weight: 600; }
.grid { stroke: #e2e6ea; } .zero, .axis { stroke: #8a949e; } .whisker { stroke-width: 1.2; opacity: .35; }
.c1 { stroke: #0b5fa5; } .c3 { stroke: #6b747e; }
.dot.c1 { fill: #0b5fa5; } .dot.c3 { fill: #6b747e; }
</style>"""


@dataclass(frozen=True, slots=True)
class Figure:
    """Safety against utility.

    Attributes:
        file: where it goes.
        about: what it shows.
        y_label: what is drawn upwards.
        safety: that, of a method on a split.
    """

    file: str
    about: str
    y_label: str
    safety: Callable[[Split, str], Interval | None]


FIGURES = (
    Figure(
        "results-refusals.svg",
        "Refusals against utility",
        "refusals of harmful prompts (better at the top)",
        lambda test, name: test.mean(name, "refusal_rate"),
    ),
    Figure(
        "results-harm.svg",
        "Loss of harmful answers against utility",
        "loss of harmful answers, less the oracle's, nats a token (better at the top)",
        lambda test, name: test.harm_beyond(name),
    ),
)


def draw(figure: Figure, test: Split, names: Sequence[str]) -> str:
    """One figure; points bear the numbers of the table, ours are blue."""
    points, numbers = [], []
    for number, name in enumerate(names, 1):
        # The base is as far from all others as fine-tuning gains; its figures stand in the table.
        cost, safe = (
            (None, None)
            if name == UNTRAINED
            else (test.minus(name, STANDARD, "utility_loss"), figure.safety(test, name))
        )
        if cost and safe:
            numbers.append(number)
            points.append(Point(name, 1 if name in OURS else 3, _ends(cost), _ends(safe)))
    chart = point_chart(
        points,
        x_label="loss of useful rows, less standard SFT's, nats a token (better to the right)",
        y_label=figure.y_label,
        x_falls=True,
        numbers=numbers,
    )
    head, rest = str(chart).split(">", 1)
    about = f"{figure.about}, one numbered point a method"
    return f'{head} role="img" aria-label="{about}" xmlns="http://www.w3.org/2000/svg">{_STYLE}{rest}\n'


def _ends(interval: Interval) -> tuple[float, float | None, float | None]:
    return interval.value, interval.low, interval.high
