"""Safety against utility, one numbered point a method, as an SVG that needs nothing beside it."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.safety.quality import Split
from benchmarks.safety.settings import OURS, UNTRAINED

from tosslm.evaluation.statistics import Interval
from tosslm.report.charts import Point, point_chart

_STYLE = """<style>
svg { font: 13px system-ui, sans-serif; background: #fff; }
text { fill: #4a545e; } .name { fill: #14181c; font-weight: 600; }
.grid { stroke: #e2e6ea; } .zero, .axis { stroke: #8a949e; } .whisker { stroke-width: 1.2; opacity: .35; }
.c1 { stroke: #0b5fa5; } .c2 { stroke: #c2500a; } .c3 { stroke: #6b747e; }
.dot.c1 { fill: #0b5fa5; } .dot.c2 { fill: #c2500a; } .dot.c3 { fill: #6b747e; }
</style>"""


def draw(test: Split, names: Sequence[str]) -> str:
    """The figure; points bear the numbers of the table, ours are blue and the base is orange."""
    points = [
        Point(
            str(number),
            1 if name in OURS else 2 if name == UNTRAINED else 3,
            _ends(test.mean(name, "utility_loss")),
            _ends(test.mean(name, "refusal_rate")),
        )
        for number, name in enumerate(names, 1)
    ]
    chart = point_chart(
        points,
        x_label="loss of held-out useful rows, nats a token (better to the right)",
        y_label="refusals of harmful prompts (better at the top)",
        about="Refusals against utility loss, one point a method",
        x_falls=True,
    )
    head, rest = str(chart).split(">", 1)
    return f'{head} xmlns="http://www.w3.org/2000/svg">{_STYLE}{rest}\n'


def _ends(interval: Interval) -> tuple[float, float | None, float | None]:
    return interval.value, interval.low, interval.high
