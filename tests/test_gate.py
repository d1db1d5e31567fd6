"""Gates: what they read, when they fail, and what they refuse."""

from __future__ import annotations

import pytest

from tosslm.errors import InputError
from tosslm.evaluation.gate import failures, parse_gate

METRICS = {"refusal_rate": {"value": 0.8, "low": 0.7, "high": 0.9, "n": 50}}


@pytest.mark.parametrize(
    ("text", "fails"),
    [
        ("refusal_rate<0.9", True),
        ("refusal_rate < 0.8", False),
        ("refusal_rate<=0.8", True),
        ("refusal_rate>0.8", False),
        ("refusal_rate>=.8", None),
        ("refusal_rate>=0.8", True),
        ("refusal_rate.low<0.75", True),
        ("refusal_rate.high<9e-1", False),
    ],
)
def test_a_gate_fails_where_its_condition_holds(text: str, fails: bool | None) -> None:
    if fails is None:
        with pytest.raises(InputError, match="expected METRIC<NUMBER"):
            parse_gate(text)
        return
    reasons = failures([parse_gate(text)], METRICS)
    assert bool(reasons) is fails
    if fails:
        assert "refusal_rate is 0.800 [0.700, 0.900], n = 50" in reasons[0]


@pytest.mark.parametrize("text", ["refusal<0.9", "refusal_rate", "refusal_rate=0.9", "<0.9", "refusal_rate<high"])
def test_a_bad_expression_names_the_known_metrics(text: str) -> None:
    with pytest.raises(InputError, match="known metrics: refusal_rate, incoherent"):
        parse_gate(text)


def test_what_was_not_measured_is_no_pass() -> None:
    with pytest.raises(InputError, match="over_refusal was not measured; measured: refusal_rate"):
        failures([parse_gate("over_refusal>0.1")], METRICS)
    assert parse_gate("lm_eval/hellaswag/acc_norm<0.4").metric == "lm_eval/hellaswag/acc_norm"
