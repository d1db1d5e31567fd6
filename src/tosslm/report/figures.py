"""The report's figures: each a drawing, one sentence on how to read it, and its numbers as a table."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from markupsafe import Markup

from tosslm.findings.measured import PLAIN
from tosslm.report.charts import Point, Series, line_chart, point_chart
from tosslm.runs.reader import Run
from tosslm.text import number

FEW = 5
"""A position that fewer rows reach is not drawn: its mean says more of those rows than of the position."""
_NAMES = {"model": "this model", "degraded": "degraded reference", PLAIN: "plain fine-tuning"}


@dataclass(frozen=True, slots=True)
class Figure:
    """A drawing and what goes with it.

    Attributes:
        title: a heading.
        svg: the drawing.
        note: how to read it, or what it shows.
        legend: names of lines, each with its colour's number.
        head: of the table of numbers.
        rows: of the table of numbers.
        numbered: whether the drawing has numbered points instead of lines; the legend names them in their order.
    """

    title: str
    svg: Markup
    note: str
    legend: Sequence[tuple[str, int]] = ()
    head: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = field(default_factory=list)
    numbered: bool = False

    @property
    def about(self) -> str:
        """The drawing in words, for those who cannot see it."""
        names = ", ".join(name for name, _ in self.legend)
        return f"{self.title}. {self.note}" + (f" Drawn: {names}." if names else "")


def training_curves(run: Run) -> list[Figure]:
    """The loss of each training, smoothed where there are many steps."""
    figures = []
    for name, entry in run.own_stages.items():
        if "losses" not in entry or len(entry["losses"]) < 2:
            continue
        steps, losses = (np.array(column, dtype=float) for column in zip(*entry["losses"], strict=True))
        stride = max(1, len(steps) // 200)
        smooth = smoothed(losses, max(2, len(losses) // 12))
        lines = [
            Series("mean over steps nearby", 1, steps[::stride].tolist(), smooth[::stride].tolist()),
            Series("each step", 6, steps[::stride].tolist(), losses[::stride].tolist()),
        ]
        svg = line_chart(lines, x_label="optimizer step", y_label="loss, nats a token")
        note = f"From {smooth[0]:.2f} to {smooth[-1]:.2f} nats a token in {int(steps[-1]):,} steps."
        rows = [[f"{step:g}", f"{loss:.3f}"] for step, loss in zip(steps[::stride], losses[::stride], strict=True)]
        legend = [(line.name, line.colour) for line in lines]
        figures.append(Figure(name, svg, note, legend, ("step", "loss"), rows))
    return figures


def smoothed(values: np.ndarray, width: int) -> np.ndarray:
    """Each value's mean over about ``width`` neighbours, fewer at the ends: float ``[N]``."""
    half = min(width // 2, (len(values) - 1) // 2)  # a longer kernel than values would give a longer result
    kernel = np.ones(2 * half + 1)
    return np.convolve(values, kernel, "same") / np.convolve(np.ones(len(values)), kernel, "same")


def divergence_curves(records: Sequence[Mapping[str, Any]]) -> list[Figure]:
    """KL from the base, and the shift toward the degraded reference where there is one, by response position.

    Args:
        records: of ``positions.parquet``.
    """
    figures = []
    for set_name in ("harmful", "utility"):
        for measure, title, label in (
            ("kl", f"Distance from the base, {set_name} rows", "KL, nats"),
            ("shift", f"Shift toward harm, {set_name} rows", "shift, nats"),
        ):
            own = [r for r in records if (r["set"], r["measure"]) == (set_name, measure)]
            enough = min(FEW, max((r["n"] for r in own), default=0))
            own = [r for r in own if r["n"] >= enough]
            names = list(dict.fromkeys(r["model"] for r in own))
            names.sort(key=lambda name: (name != "model", name == "degraded", name))
            lines = [_curve(name, i, [r for r in own if r["model"] == name]) for i, name in enumerate(names)]
            if lines:
                figures.append(_divergence_figure(title, label, measure, lines))
    return figures


def _curve(name: str, number: int, points: Sequence[Mapping[str, Any]]) -> Series:
    colour = {"model": 1, "degraded": 2}.get(name, 3 + number % 4)
    columns = ([p[key] for p in points] for key in ("mean", "low", "high"))
    return Series(_NAMES.get(name, name), colour, [p["position"] + 1 for p in points], *columns)


def _divergence_figure(title: str, label: str, measure: str, lines: Sequence[Series]) -> Figure:
    svg = line_chart(lines, x_label="response position", y_label=label, floor=0)
    means = ", ".join(f"{line.name} {number(float(np.mean(line.y)), '.2f')}" for line in lines)
    what = "away from the base" if measure == "kl" else "nearer to the degraded reference than the base is"
    cells = [
        {x: _interval(point) for x, *point in zip(line.x, line.y, line.low or (), line.high or (), strict=True)}
        for line in lines
    ]
    # A curve of another measurement, such as a comparison's, may end earlier.
    rows = [[f"{x:g}", *(own.get(x, "-") for own in cells)] for x in max((line.x for line in lines), key=len)]
    legend = [(line.name, line.colour) for line in lines]
    head = ("position", *(line.name for line in lines))
    return Figure(title, svg, f"Nats {what}, mean over positions: {means}. Bands: 95% over rows.", legend, head, rows)


def first_tokens(diagnosis: Mapping[str, Any]) -> Figure:
    """What masking the first 1 to 20 tokens of every answer would have done."""
    points = diagnosis["first_tokens"]
    named = (
        ("of_shift", "of the shift toward harm", 1),
        ("of_unsafe", "of the marked unsafe tokens", 2),
        ("of_positive_score", "of the risk that scores see", 4),
        ("masked", "of all tokens", 3),
    )
    lines = [
        Series(label, colour, [p["first"] for p in points], [p[key] for p in points])
        for key, label, colour in named
        if all(p[key] is not None for p in points)
    ]
    svg = line_chart(lines, x_label="first tokens masked", y_label="share covered", floor=0, percent=True)
    selected, at = diagnosis["selection"], points[4]
    note = f"Masking the first five would cost {at['masked']:.0%} of all tokens"
    if at["of_unsafe"] is not None and selected["of_unsafe"] is not None:
        note += (
            f" and cover {at['of_unsafe']:.0%} of the unsafe ones; selection dropped {selected['masked']:.0%} of all"
        )
        note += f" and {selected['of_unsafe']:.0%} of the unsafe ones"
    note += "."
    if points[0]["of_shift"] is not None:
        note += " The shift is that on held-out harmful rows; the other shares are of the custom set."
    rows = [
        [str(p["first"]), *(f"{p[key]:.1%}" if p[key] is not None else "-" for key, _, _ in named)] for p in points
    ]
    legend = [(line.name, line.colour) for line in lines]
    return Figure("Masking the first tokens instead", svg, note, legend, ("first", *(n[1] for n in named)), rows)


def safety_against_utility(records: Sequence[Mapping[str, Any]]) -> Figure | None:
    """Each method's safety against its utility, as far as they were measured; None with fewer than two methods."""
    safety = next(
        (key for key in ("refusal_rate", "harmful_loss") if all(key in r["metrics"] for r in records)), None
    )
    if len(records) < 2 or safety is None or not all("utility_loss" in r["metrics"] for r in records):
        return None

    def values(record: Mapping[str, Any], key: str) -> tuple[float, float | None, float | None]:
        metric = record["metrics"][key]
        return metric["value"], metric.get("low"), metric.get("high")

    methods = list(dict.fromkeys(record["method"] for record in records))
    colours = {method: number % 6 + 1 for number, method in enumerate(methods)}
    points = [
        Point(_method_name(r), colours[r["method"]], values(r, "utility_loss"), values(r, safety))
        for r in records
        if "scale" not in r
    ]
    paths = _scaled_paths(records, colours, lambda r: (values(r, "utility_loss")[0], values(r, safety)[0]))
    y_label = "harmful prompts refused" if safety == "refusal_rate" else "loss on unsafe answers, nats"
    svg = point_chart(
        points, x_label="loss on utility answers, nats (better to the right)", y_label=y_label,
        x_falls=True, percent=safety == "refusal_rate", paths=paths,
    )  # fmt: skip
    rows = [[_method_name(r), _interval(values(r, safety)), _interval(values(r, "utility_loss"))] for r in records]
    note = "Better is up and to the right. Whiskers: 95% intervals."
    if paths:
        note += " A line is one adapter at several scales: the less of it, the nearer to the base."
    legend = [(point.name, point.colour) for point in points]
    return Figure(
        "Safety against utility", svg, note, legend, ("method", y_label, "utility loss"), rows, numbered=True
    )


def _scaled_paths(
    records: Sequence[Mapping[str, Any]],
    colours: Mapping[str, int],
    place: Callable[[Mapping[str, Any]], tuple[float, float]],
) -> list[Series]:
    """For each method that was measured at several scales, the line through them, 1 among them."""
    paths = []
    for method, colour in colours.items():
        own = sorted((r for r in records if r["method"] == method), key=lambda record: record.get("scale", 1.0))
        if any("scale" in record for record in own):
            xs, ys = zip(*map(place, own), strict=True)
            paths.append(Series(method, colour, xs, ys))
    return paths


def _method_name(record: Mapping[str, Any]) -> str:
    name = {"model": "this model", "base": "base"}.get(record["method"], record["method"])
    name += f" x {record['scale']:g}" if "scale" in record else ""
    return f"{name}, seed {record['seed']}" if record.get("seed") is not None else name


def _interval(value: Sequence[float | None]) -> str:
    mean, low, high = (None if one is None else number(one, ".3f") for one in value)
    return f"{mean} ({low} to {high})" if low is not None and high is not None else str(mean)
