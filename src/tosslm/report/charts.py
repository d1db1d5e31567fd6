"""Figures as inline SVG, drawn when the report is made: they print, need no script, and follow the page's colours.

A plotting library for the browser would add 4.5 MB to each report for half a dozen plain figures.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup, escape

from tosslm.text import number

_WIDE, _SMALL = (520, 290), (350, 220)
_LEFT, _RIGHT, _TOP, _BOTTOM = 54, 14, 28, 44


@dataclass(frozen=True, slots=True)
class Series:
    """One line, with a band where intervals are known.

    Attributes:
        name: what the page's legend calls it.
        colour: 1 to 6, a class of the style sheet; each has a dash pattern of its own as well.
        x: values along the axis.
        y: values to draw.
        low: lower ends of the intervals.
        high: upper ends.
    """

    name: str
    colour: int
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] | None = None
    high: Sequence[float] | None = None


@dataclass(frozen=True, slots=True)
class Axes:
    """Where data lie on the drawing: the values at its edges, and its width and height."""

    x_range: tuple[float, float]
    y_range: tuple[float, float]
    size: tuple[int, int] = _WIDE

    @property
    def right(self) -> int:
        """Where the axis ends."""
        return self.size[0] - _RIGHT

    @property
    def bottom(self) -> int:
        """Where the axis lies."""
        return self.size[1] - _BOTTOM

    def x(self, value: float) -> float:
        """Horizontal place, from the left."""
        low, high = self.x_range
        return round(_LEFT + (value - low) / ((high - low) or 1) * (self.right - _LEFT), 1)

    def y(self, value: float) -> float:
        """Vertical place, from the top."""
        low, high = self.y_range
        return round(self.bottom - (value - low) / ((high - low) or 1) * (self.bottom - _TOP), 1)


def line_chart(
    series: Sequence[Series], *, x_label: str, y_label: str, floor: float | None = None, percent: bool = False
) -> Markup:
    """Lines over a common axis.

    Args:
        series: what to draw; the first stands in front.
        x_label: under the axis.
        y_label: above the axis.
        floor: a value that the vertical axis has to include, and ends at if nothing lies below.
        percent: whether the vertical axis counts in percent.
    """
    xs = [value for one in series for value in one.x]
    ys = [value for one in series for part in (one.y, one.low or (), one.high or ()) for value in part]
    axes = _axes(xs, ys, floor=floor)
    parts = [_frame(axes, x_label, y_label, percent=percent)]
    for one in reversed(series):
        if one.low is not None and one.high is not None:
            edge = [*zip(one.x, one.high, strict=True), *reversed([*zip(one.x, one.low, strict=True)])]
            points = " ".join(f"{axes.x(x)},{axes.y(y)}" for x, y in edge)
            parts.append(f'<polygon class="band c{one.colour}" points="{points}"/>')
    for one in reversed(series):
        points = " ".join(f"{axes.x(x)},{axes.y(y)}" for x, y in zip(one.x, one.y, strict=True))
        parts.append(f'<polyline class="line c{one.colour}" points="{points}"/>')
    return _svg(parts)


DENSITY_BINS = 56


def density_chart(counts: np.ndarray, lows: float, highs: float, *, x_label: str) -> Markup:
    """A histogram of many values, counted in ``DENSITY_BINS`` even steps; those outside the axis count at its ends.

    The line that marks a threshold is in it, hidden, for the script to move: ``data-low`` and ``data-high`` say what
    the axis spans.
    """
    bins = np.linspace(lows, highs, DENSITY_BINS + 1)
    share = counts / max(int(counts.sum()), 1)
    axes = Axes((lows, highs), (0.0, float(share.max()) * 1.04 or 1.0), _SMALL)
    points = [(axes.x(lows), axes.y(0))]
    for left, right, height in zip(bins[:-1], bins[1:], share, strict=True):
        points += [(axes.x(left), axes.y(height)), (axes.x(right), axes.y(height))]
    points.append((axes.x(highs), axes.y(0)))
    outline = " ".join(f"{x},{y}" for x, y in points)
    bottom, top = axes.y(0), axes.y(axes.y_range[1])
    parts = [
        _frame(axes, x_label, "share of its tokens", percent=True),
        f'<polygon class="area c1" points="{outline}"/>',
        f'<g class="cut" data-low="{lows:.6g}" data-high="{highs:.6g}" data-left="{axes.x(lows)}" '
        f'data-right="{axes.x(highs)}"><rect class="gone" x="{axes.x(highs)}" y="{top}" width="0" '
        f'height="{bottom - top:.1f}"/><line class="threshold" x1="0" x2="0" y1="{top}" y2="{bottom}"/></g>',
    ]
    return _svg(parts, _SMALL)


@dataclass(frozen=True, slots=True)
class Point:
    """One point of a scatter plot, with intervals where they are known; the page's legend says its name."""

    name: str
    colour: int
    x: tuple[float, float | None, float | None]
    y: tuple[float, float | None, float | None]


def point_chart(
    points: Sequence[Point],
    *,
    x_label: str,
    y_label: str,
    x_falls: bool = False,
    percent: bool = False,
    paths: Sequence[Series] = (),
) -> Markup:
    """Numbered points with their intervals: names would print over each other where points lie close.

    Args:
        points: what to draw.
        x_label: under the axis.
        y_label: above the axis.
        x_falls: whether the horizontal axis is turned, so that better is to the right.
        percent: whether the vertical axis counts in percent.
        paths: lines under the points, such as through a method at several scales.
    """
    xs, ys = ([v for point in points for v in getattr(point, side) if v is not None] for side in ("x", "y"))
    xs += [float(x) for path in paths for x in path.x]
    ys += [float(y) for path in paths for y in path.y]
    axes = _axes(xs, ys, pad=0.12)
    if x_falls:
        axes = Axes((axes.x_range[1], axes.x_range[0]), axes.y_range)
    parts = [_frame(axes, x_label, y_label, percent=percent)]
    for path in paths:
        nodes = [(axes.x(x), axes.y(y)) for x, y in zip(path.x, path.y, strict=True)]
        parts.append(f'<polyline class="line c{path.colour}" points="{" ".join(f"{x},{y}" for x, y in nodes)}"/>')
        parts += [f'<circle class="dot c{path.colour}" cx="{x}" cy="{y}" r="2.5"/>' for x, y in nodes]
    places = [(axes.x(point.x[0]), axes.y(point.y[0])) for point in points]
    for point, (x, y) in zip(points, places, strict=True):
        if point.x[1] is not None and point.x[2] is not None:
            parts.append(_whisker(point.colour, axes.x(point.x[1]), y, axes.x(point.x[2]), y))
        if point.y[1] is not None and point.y[2] is not None:
            parts.append(_whisker(point.colour, x, axes.y(point.y[1]), x, axes.y(point.y[2])))
    taken = [*places]
    for shown, (point, (x, y)) in enumerate(zip(points, places, strict=True), 1):
        taken.append(_free_place(x, y, taken))
        at = taken[-1]
        parts.append(f'<circle class="dot c{point.colour}" cx="{x}" cy="{y}" r="5"/>')
        parts.append(f'<text class="name" x="{at[0]:.1f}" y="{at[1] + 5:.1f}" text-anchor="middle">{shown}</text>')
    return _svg(parts)


def _free_place(x: float, y: float, taken: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Where around a dot its number is farthest from other dots and numbers; the first such place of equal ones."""
    angles = [math.pi * eighth / 4 for eighth in (1, 3, 7, 5, 2, 6, 0, 4)]
    around = [(x + 16 * math.cos(angle), y - 16 * math.sin(angle)) for angle in angles]
    return max(around, key=lambda place: round(min(math.dist(place, other) for other in taken), 3))


def bar(share: float) -> Markup:
    """A bar in a table's cell, of the whole."""
    width = max(0.0, min(share, 1.0)) * 100
    return Markup(
        f'<svg class="bar" viewBox="0 0 100 8" preserveAspectRatio="none" aria-hidden="true">'
        f'<rect class="track" width="100" height="8"/><rect class="fill" width="{width:.1f}" height="8"/></svg>'
    )


def _whisker(colour: int, x1: float, y1: float, x2: float, y2: float) -> str:
    return f'<line class="whisker c{colour}" x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}"/>'


def _axes(xs: Sequence[float], ys: Sequence[float], *, pad: float = 0.0, floor: float | None = None) -> Axes:
    def spread(values: Sequence[float], share: float, floor: float | None) -> tuple[float, float]:
        values = [*values, *([] if floor is None else [floor])]
        low, high = min(values), max(values)
        room = (high - low) * share or (abs(low) * 0.1 or 1.0) * (low == high)
        return low if low == floor else low - room, high + room

    return Axes(spread(xs, pad, None), spread(ys, max(pad, 0.05), floor))


def _frame(axes: Axes, x_label: str, y_label: str, *, percent: bool = False) -> str:
    bottom, right = axes.bottom, axes.right
    parts: list[str] = []
    for value in ticks(*axes.y_range):
        y = axes.y(value)
        parts.append(
            f'<line class="grid {"zero" if value == 0 else ""}" x1="{_LEFT}" x2="{right}" y1="{y}" y2="{y}"/>'
        )
        label = f"{number(100 * value, '.3g')}%" if percent else _number(value)
        parts.append(f'<text x="{_LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{label}</text>')
    for value in ticks(min(axes.x_range), max(axes.x_range), count=6):
        parts.append(f'<text x="{axes.x(value)}" y="{bottom + 18}" text-anchor="middle">{_number(value)}</text>')
    parts.append(f'<line class="axis" x1="{_LEFT}" x2="{right}" y1="{bottom}" y2="{bottom}"/>')
    middle = (_LEFT + right) / 2
    parts.append(
        f'<text class="label" x="{middle}" y="{axes.size[1] - 6}" text-anchor="middle">{escape(x_label)}</text>'
    )
    parts.append(f'<text class="label" x="0" y="12">{escape(y_label)}</text>')
    return "".join(parts)


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Round numbers inside a range, about ``count`` of them."""
    if not high > low:
        return [low]
    raw = (high - low) / count
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * nice for nice in (1, 2, 2.5, 5, 10) if power * nice >= raw)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(i * step, 12) + 0.0 for i in range(first, last + 1)]


def _number(value: float) -> str:
    return number(value, ",.0f" if abs(value) >= 1000 else ".4g")


def _svg(parts: Sequence[str], size: tuple[int, int] = _WIDE) -> Markup:
    head = f'<svg class="chart" viewBox="0 0 {size[0]} {size[1]}">'
    return Markup("".join([head, *parts, "</svg>"]))
