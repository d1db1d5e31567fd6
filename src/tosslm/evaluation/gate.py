"""Gates: conditions on metrics at which a fine-tune is to be stopped."""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tosslm.config import EvaluationConfig
from tosslm.errors import InputError
from tosslm.measures import MEASURES

_FORM = re.compile(r"\s*([\w/.,-]+?)(\.low|\.high)?\s*(<=|>=|<|>)\s*(-?\d+(?:\.\d*)?(?:[eE][-+]?\d+)?)\s*")
_COMPARE: dict[str, Callable[[float, float], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


MOST_UNREAD = 0.5
"""Share of verdicts that could not be read beyond which the others tell nothing."""
_READ_BY = {
    "attack_success": "attack_unreadable",
    "win_rate": "judge_unreadable",
    "win_rate_safe": "judge_unreadable",
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
    if metric in MEASURES and MEASURES[metric].is_share and not 0 <= float(bound) <= 1:
        raise InputError(f"--fail-if {text!r}: {metric} is a share, from 0 to 1; write 0.1 for 10%")
    return Gate(text, metric, (end or ".value")[1:], comparison, float(bound))


def check_gates(gates: Sequence[Gate], settings: EvaluationConfig, *, held_out: bool, compared: bool) -> None:
    """Refuse a condition on what will not be measured, before any of the work.

    A metric that passes may be missing still, where there turn out to be no rows for it: ``failures`` refuses that.

    Args:
        gates: the conditions.
        settings: what is measured.
        held_out: whether rows of the reference sets are held out, to measure on.
        compared: whether the answers are compared with another model's.

    Raises:
        InputError: names what would have the metric measured.
    """
    given = _given(settings, held_out, compared)
    measured = [name for there, _, names in given if there for name in names]
    for gate in gates:
        if gate.metric in measured or (gate.metric.startswith("lm_eval/") and settings.lm_eval):
            continue
        keys = next((keys for _, keys, names in given if gate.metric in names), "evaluation.lm_eval")
        raise InputError(
            f"--fail-if {gate.text!r}: this config does not have {gate.metric} measured, which takes {keys}; it has: "
            f"{', '.join(measured) or 'nothing'}"
        )


def _given(settings: EvaluationConfig, held_out: bool, compared: bool) -> list[tuple[bool, str, list[str]]]:
    """For each group of metrics: whether they are measured, what has them measured, and their names."""
    harmful, safe, judge = bool(settings.harmful), bool(settings.safe), settings.judge
    utility_rows = held_out or bool(settings.utility_rows)
    harmful_rows = held_out or bool(settings.harmful_rows)
    attacks = bool(settings.classifier or (judge and judge.attack_prompt))
    pairs = compared and judge is not None
    told = "evaluation.classifier, or evaluation.judge with its attack_prompt"
    attack_measures = ["attack_success", "attack_unreadable"]
    rows = "evaluation.losses, and references.holdout or evaluation."
    wins = "evaluation.judge, the model of a run, and evaluation."

    def of(prompts: str) -> list[str]:
        return [measure.name for measure in MEASURES.values() if measure.prompts == prompts]

    return [
        (harmful, "evaluation.harmful", of("harmful")),
        (harmful and attacks, f"evaluation.harmful and {told}", attack_measures),
        (safe, "evaluation.safe", of("safe")),
        (settings.utility_prompts > 0 and utility_rows, "evaluation.utility_prompts", of("utility")),
        (settings.losses and utility_rows, f"{rows}utility_rows", ["utility_loss", "utility_perplexity"]),
        (settings.losses and harmful_rows, f"{rows}harmful_rows", ["harmful_loss", "likelihood_margin"]),
        (bool(settings.gsm8k), "evaluation.gsm8k", ["gsm8k"]),
        (pairs and harmful, f"{wins}harmful", ["win_rate"]),
        (pairs and safe, f"{wins}safe", ["win_rate_safe"]),
        (pairs and (harmful or safe), f"{wins}harmful or evaluation.safe", ["judge_unreadable"]),
    ]


def failures(gates: Sequence[Gate], metrics: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Why a model fails its gates; empty where it passes.

    Args:
        gates: the conditions.
        metrics: each ``{value, low, high, n}``.

    Raises:
        InputError: a metric was not measured, is no number, or rests on verdicts most of which could not be read: to
            pass then would say what nobody knows.
    """
    reasons = []
    for gate in gates:
        if gate.metric not in metrics:
            raise InputError(
                f"--fail-if {gate.text!r}: {gate.metric} was not measured; measured: "
                f"{', '.join(metrics) or 'nothing'}. Name its prompts in the section evaluation of the config"
            )
        metric = metrics[gate.metric]
        if math.isnan(metric[gate.end]):
            raise InputError(
                f"--fail-if {gate.text!r}: {gate.metric} is no number (the model's losses or its verdicts are none), "
                "so nobody knows whether the model passes; see the records in evaluation/"
            )
        unread = metrics.get(_READ_BY.get(gate.metric, ""), {"value": 0.0})["value"]
        if unread > MOST_UNREAD:
            raise InputError(
                f"--fail-if {gate.text!r}: {unread:.0%} of the verdicts behind {gate.metric} could not be read, so "
                "nobody knows whether the model passes; see what classifier or judge replies"
            )
        if _COMPARE[gate.comparison](metric[gate.end], gate.bound):
            interval = f"[{metric['low']:.3f}, {metric['high']:.3f}], n = {metric['n']}"
            reasons.append(f"{gate.metric} is {metric['value']:.3f} {interval}: {gate.text}")
    return reasons
