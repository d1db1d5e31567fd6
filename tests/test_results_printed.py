"""Results in a terminal: no figure is cut, and each says what it is and of how many."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from tosslm.config import load_config
from tosslm.findings.sentence import Sentence, Strong
from tosslm.measures import MEASURES
from tosslm.methods import named_alike
from tosslm.report.shell import bold
from tosslm.terminal.results import print_comparison, print_results
from tosslm.terminal.tables import told

NAMES = ("refusal_rate", "over_refusal", "utility_loss", "utility_perplexity", "safe_incoherent")
METHODS = ("base", "toss-pro", "toss-soft", "toss-posterior-anchor")


def figure(metric: str, method: str) -> dict[str, Any]:
    value = 10_000.0 * (NAMES.index(metric) + 1) + METHODS.index(method)
    return {"value": value, "low": value - 0.5, "high": value + 0.25, "n": 60 + NAMES.index(metric)}


def printed(width: int, methods: tuple[str, ...] = METHODS) -> str:
    records = [
        {"method": method, "seeds": [0, 1], "metrics": {name: figure(name, method) for name in NAMES}}
        for method in methods
    ]
    file = io.StringIO()
    print_comparison(records, None, Console(file=file, width=width))
    return file.getvalue()


@pytest.mark.parametrize("width", [80, 100, 200])
def test_no_name_and_no_figure_is_cut_however_narrow_a_pipe_is(width: int) -> None:
    text = printed(width)
    for metric in NAMES:
        for method in METHODS:
            own = figure(metric, method)
            assert f"{own['value']:.3f} [{own['low']:.3f}, {own['high']:.3f}]" in text
            assert method in text
        assert metric in text
    assert "…" not in text


def test_methods_stand_side_by_side_where_they_fit() -> None:
    (wide,) = [line for line in printed(200).splitlines() if line.startswith(" refusal_rate  ")]
    assert wide.count("[") == len(METHODS)
    (narrow,) = [line for line in printed(80).splitlines() if line.startswith(" refusal_rate  ")]
    assert narrow.count("[") == 1


def test_each_metric_says_what_it_is_and_of_how_many() -> None:
    text = printed(80)
    for metric in NAMES:
        assert f"{metric}: {MEASURES[metric].meaning} (n = {figure(metric, 'base')['n']})" in text


def test_what_lm_eval_measured_is_said_to_be_its_own() -> None:
    file = io.StringIO()
    record = {"method": "model", "seed": 0, "metrics": {"lm_eval/arc/acc": figure("refusal_rate", "base")}}
    print_results([record], Console(file=file, width=80))
    assert "lm_eval/arc/acc: as lm-eval has it (n = 60)" in file.getvalue()


def test_names_of_people_and_of_servers_steer_neither_terminal_nor_page() -> None:
    """A file of decisions may come from anybody."""
    name = "Eve\x1b[2J\x07\u202e"
    assert "\x1b" not in (text := told("By hand", "bold", Sentence("by ", Strong(name))).plain)
    assert "\u202e" not in text
    assert str(bold(Sentence(name, Strong(name)))).count("U+001B") == 2


def test_the_method_that_a_config_is_without_naming_it_is_found() -> None:
    def of(*settings: str) -> str | None:
        sets = {name: {"path": f"{name}.jsonl"} for name in ("custom", "harmful", "utility")}
        return named_alike(load_config({"run_dir": "run", "data": sets}, list(settings)))

    assert of() == "toss-posterior-anchor"
    assert of("method=dsir", "selection.discard_fraction=0.1") == "dsir"
    paper = ("selection.evidence=token", "selection.discard_fraction=0.1", "finetune.dropped=ignore")
    assert of(*paper) == "toss"
    assert of(*paper, "refinement.rounds=2") == "toss-pro"
    assert of(*paper, "selection.alpha=2") is None
