"""How a figure and its interval are written on the page."""

from __future__ import annotations

from tosslm.statistics import Interval


def percent(interval: Interval | None) -> str:
    """A share with its interval, in percent."""
    return _figure(interval, "{:.0%}")


def points(interval: Interval) -> str:
    """A difference of shares with its interval, in percentage points."""
    return f"{100 * interval.value:.0f} points [{100 * interval.low:.0f}, {100 * interval.high:.0f}]"


def nats(interval: Interval | None) -> str:
    """A loss with its interval."""
    return _figure(interval, "{:.3f}")


def _figure(interval: Interval | None, form: str) -> str:
    if interval is None:
        return ""
    value, low, high = (form.format(end) for end in (interval.value, interval.low, interval.high))
    return f"{value} [{low}, {high}]"
