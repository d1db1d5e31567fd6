"""Gates: conditions on metrics at which a fine-tune is to be stopped."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tosslm.errors import InputError
from tosslm.evaluation.measures import MEASURES

_FORM = re.compile(r"\s*([\w/.,-]+?)(\.low|\.high)?\s*(<=|>=|<|>)\s*(-?\d+(?:\.\d*)?(?:[eE][-+]?\d+)?)\s*")
_COMPARE: dict[str, Callable[[float, float], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


@dataclass(frozen=True, slots=True)
class Gate:
    """A condition that must not hold.

    Attributes:
        text: as the user wrote it.
        metric: a known metric's name.
        end: ``value``, or ``low`` or ``high``, the ends of its interval.
        comparison: ``<``, ``<=``, ``>`` or ``>=``.
        bound: the number.
    """

    text: str
    metric: str
    end: str
    comparison: str
    bound: float


def parse_gate(text: str) -> Gate:
    """Read a condition such as ``refusal_rate<0.9`` or ``over_refusal.low>0.1``.

    Raises:
        InputError: it is none, or its metric is unknown.
    """
    match = _FORM.fullmatch(text)
    known = f"known metrics: {', '.join(MEASURES)}, lm_eval/TASK/METRIC"
    if not match:
        raise InputError(f"--fail-if {text!r}: expected METRIC<NUMBER or METRIC>NUMBER; {known}")
    metric, end, comparison, bound = match.groups()
    if metric not in MEASURES and not metric.startswith("lm_eval/"):
        raise InputError(f"--fail-if {text!r}: no metric {metric!r}; {known}")
    return Gate(text, metric, (end or ".value")[1:], comparison, float(bound))


def failures(gates: Sequence[Gate], metrics: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Why a model fails its gates; empty where it passes.

    Args:
        gates: the conditions.
        metrics: each ``{value, low, high, n}``.

    Raises:
        InputError: a metric was not measured: to pass then would say what nobody knows.
    """
    reasons = []
    for gate in gates:
        if gate.metric not in metrics:
            raise InputError(
                f"--fail-if {gate.text!r}: {gate.metric} was not measured; measured: "
                f"{', '.join(metrics) or 'nothing'}. Name its prompts in the section evaluation of the config"
            )
        metric = metrics[gate.metric]
        if _COMPARE[gate.comparison](metric[gate.end], gate.bound):
            interval = f"[{metric['low']:.3f}, {metric['high']:.3f}], n = {metric['n']}"
            reasons.append(f"{gate.metric} is {metric['value']:.3f} {interval}: {gate.text}")
    return reasons
