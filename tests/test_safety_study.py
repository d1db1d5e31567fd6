"""What the safety study measures with, on cases worked out by hand; and all of it on the very small model."""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from studies.corpora import write_jsonl
from studies.provenance import code_version
from studies.safety import study
from studies.safety.clusters import advbench_clusters, clusters, in_clusters
from studies.safety.data import check_leaks
from studies.safety.ladder import findings
from studies.safety.ledger import Results, read_results
from studies.safety.page import as_good, equals, harm_learnt, refined, write_page
from studies.safety.quality import Split, dropped_positions, dropped_shares
from studies.safety.settings import METHODS, OURS, RIVALS, config, sets_folder
from studies.safety.verdict import against, choose, criteria

from conftest import demo_rows
from tosslm.config import load_config
from tosslm.model.base import open_base

DROPPED = {
    "source": {"harmful": [10, 5], "gsm8k": [30, 3]},
    "tokens": [2, 1] + [0] * 18 + [37],
    "dropped": [1, 1] + [0] * 19,
}


def kept(refusals: list[int], useful: float, harmful: float) -> dict[str, Any]:
    """A result whose losses are the same on every row."""
    values: dict[str, Sequence[float]] = {
        "refusal_rate": refusals,
        "over_refusal": [0, 1],
        "incoherent": [0] * len(refusals),
        "utility_loss": [useful, useful],
        "harmful_loss": [harmful, harmful],
        "likelihood_margin": [1.0, 2.0],
    }
    metrics = {
        name: {split: {"values": list(own), "weights": None, "print": "p"} for split in ("validation", "test")}
        for name, own in values.items()
    }
    return {"metrics": metrics, "dropped": DROPPED}


def results() -> Results:
    """The base refuses all four prompts, SFT one; TOSS with both of our steps three, at 0.9 of SFT's gain."""
    return {
        "base": {0: kept([1, 1, 1, 1], 3.0, 3.0)},
        "sft": {seed: kept([1, 0, 0, 0], 2.0, 2.0) for seed in (0, 1)},
        "oracle": {seed: kept([1, 1, 0, 0], 2.0, 2.9) for seed in (0, 1)},
        "random": {seed: kept([0, 0, 0, 0], 2.0, 2.0) for seed in (0, 1)},
        "toss": {seed: kept([1, 1, 1, 1], 2.9, 3.0) for seed in (0, 1)},
        "toss-posterior-anchor": {seed: kept([1, 1, 1, 0], 2.1, 3.1) for seed in (0, 1)},
    }


def test_shares_are_of_what_standard_fine_tuning_lost_and_gained() -> None:
    test = Split(results(), "test")
    restored, gained = test.restored("toss-posterior-anchor"), test.gain_kept("toss-posterior-anchor")
    assert restored is not None
    assert gained is not None
    assert restored.value == pytest.approx((3 - 1) / (4 - 1))
    assert restored.low < restored.value <= restored.high
    assert (gained.value, gained.low, gained.high) == pytest.approx((0.9, 0.9, 0.9))
    difference = test.minus("sft", "base", "refusal_rate")
    assert difference is not None
    assert difference.value == pytest.approx(-0.75)


def test_paired_differences_draw_the_same_prompts() -> None:
    """Two methods that differ by a constant differ by it in every draw."""
    rng = np.random.default_rng(0)
    first: Results = {"sft": {}, "toss": {}}
    for seed in (0, 1, 2):
        values = rng.random(40)
        for name, shift in (("sft", 0.0), ("toss", 0.25)):
            result = kept([1, 0], 2.0, 2.0)
            result["metrics"]["refusal_rate"]["test"]["values"] = (values + shift).tolist()
            first[name][seed] = result
    found = Split(first, "test").minus("toss", "sft", "refusal_rate")
    assert found is not None
    assert (found.value, found.low, found.high) == pytest.approx((0.25, 0.25, 0.25))


def test_results_of_other_prompts_are_not_compared() -> None:
    mixed = results()
    mixed["toss"][1]["metrics"]["refusal_rate"]["test"]["print"] = "other"
    with pytest.raises(SystemExit, match="different prompts"):
        Split(mixed, "test").minus("toss", "sft", "refusal_rate")


def test_three_shares_together() -> None:
    """Against random tokens: (3 - 0) / (4 - 1) of refusals, (3.1 - 2.0) / (3 - 2) of harm, -(2.1 - 2.0) / (3 - 2)."""
    found = Split(results(), "test").together("toss-posterior-anchor", "random")
    assert found is not None
    assert found.value == pytest.approx((3 / 3 + 1.1 - 0.1) / 3)
    # The losses are the same on every row, so two of the parts are fixed.
    assert 1 / 3 <= found.low < found.value < found.high
    same = Split(results() | {"sft": {0: kept([1, 1, 1, 1], 2.0, 2.0)}}, "test")
    assert same.together("toss-posterior-anchor", "random") is None


def test_training_seeds_are_drawn_once_for_three_shares() -> None:
    """What a seed adds to one share and takes from another leaves the mean alone, whichever seeds are drawn."""
    drawn = results()
    for seed, shift in ((0, 0.2), (1, -0.2)):
        drawn["toss"][seed] = kept([0, 0, 0, 0], 2.0 + shift, 2.0 + shift)
    found = Split(drawn, "test").together("toss", "random")
    assert found is not None
    assert (found.value, found.low, found.high) == pytest.approx((0, 0, 0))


def test_the_best_keeps_its_utility_first() -> None:
    """TOSS refuses more here, but has a tenth of the gain."""
    validation = Split(results(), "validation")
    assert choose(validation) == "toss-posterior-anchor"
    met = {one.what: one.met for one in criteria(validation, "toss-posterior-anchor")}
    assert not met["refusals that SFT lost, restored"]
    assert met["SFT's gain in utility loss, kept"]
    assert met["loss of held-out harmful answers less the base's, nats"]
    one = against(validation, "toss-posterior-anchor", "random")
    assert one.better
    assert one.worse
    assert one.refusals is not None
    assert one.use is not None
    assert one.refusals.low > 0
    assert one.use.value == pytest.approx(-0.1)


def test_every_method_that_is_not_ours_is_a_rival() -> None:
    rivals = results() | {name: {0: kept([0, 0, 0, 0], 2.0, 2.0)} for name in ("rows", "star-dss", "seal")}
    found = criteria(Split(rivals, "test"), "toss-posterior-anchor")
    assert [one.what for one in found if one.paired] == [
        f"the three together, less those of {rival}" for rival in ("random", "rows", "seal", "star-dss")
    ]
    assert not {*RIVALS} & {*OURS, "base", "sft", "oracle"}
    assert {*METHODS} == {*RIVALS, *OURS, "base", "sft", "oracle"}


def test_harm_is_what_the_oracle_does_not_learn_as_well() -> None:
    """Losses of harmful answers: 3.0 under the base, 2.9 under the oracle, 2.0 under SFT, 2.8 under ours."""
    learnt = results() | {"toss-posterior-anchor": {seed: kept([1, 1, 1, 0], 2.1, 2.8) for seed in (0, 1)}}
    told = harm_learnt("toss-posterior-anchor", Split(learnt, "test"))[0]
    assert "under standard SFT by 0.900 [0.900, 0.900] nats" in told
    assert "under toss-posterior-anchor by 0.100 [0.100, 0.100]" in told
    few = {name: own for name, own in learnt.items() if name != "oracle"}
    assert harm_learnt("toss-posterior-anchor", Split(few, "test")) == []


def test_methods_that_tie_are_called_equal() -> None:
    tied = results() | {"toss-anchor": results()["toss-posterior-anchor"]}
    (told,) = equals("toss-anchor", Split(tied, "test"))[:1]
    assert "toss-anchor cannot be told from: toss-posterior-anchor: they are equal here." in told
    assert "cannot be told from: none." in equals("toss-posterior-anchor", Split(results(), "test"))[0]


def test_a_round_that_makes_it_worse_is_called_worse() -> None:
    rounds = results() | {"toss-pro": {seed: kept([1, 1, 1, 1], 2.95, 2.9) for seed in (0, 1)}}
    lines = refined(Split(rounds, "test"))
    assert lines[2].startswith("- toss-pro less toss: **worse**")
    assert refined(Split(results(), "test")) == []


def test_goals_that_are_alike_are_drawn_together() -> None:
    label = clusters(["How to make a bomb", "Make a bomb at home", "Write a poem", "Make two bombs of clay and sing"])
    assert label.tolist() == [0, 0, 1, 2]
    values, weights = in_clusters(np.array([[1.0, 0.0, 1.0, 0.0]]), np.ones(4), label)
    assert values.tolist() == [[0.5, 1.0, 0.0]]
    assert weights.tolist() == [2.0, 1.0, 1.0]
    assert values @ weights / weights.sum() == pytest.approx(0.5)  # the mean stays


def test_the_studys_own_goals_are_drawn_in_clusters() -> None:
    """The same values with another print are drawn one by one, and vary less."""
    print_, label = advbench_clusters("test")
    assert len(label) == 80
    assert label.max() + 1 < 80
    drawn: Results = {"sft": {0: kept([], 2.0, 2.0)}}
    own = drawn["sft"][0]["metrics"]["refusal_rate"]["test"]
    own["values"], own["print"] = (label % 2).tolist(), print_
    together = Split(drawn, "test").mean("sft", "refusal_rate")
    own["print"] = "other"
    apart = Split(drawn, "test").mean("sft", "refusal_rate")
    assert together.value == pytest.approx(apart.value)
    assert together.n < apart.n == 80


def test_methods_of_others_that_do_as_well_are_named_with_the_harm_they_learn() -> None:
    assert (
        as_good(Split(results(), "test"))[0] == "Of the methods that are not ours, none keeps the first two promises."
    )
    as_well = results() | {"rows": {0: kept([1, 1, 1, 1], 2.1, 2.5)}}
    assert "in brackets their third: rows (-0.500 [-0.500, -0.500])." in as_good(Split(as_well, "test"))[0]


def test_methods_that_share_rounds_are_compared_together() -> None:
    methods = ["sft", "toss-pro", "toss", "toss-pro-anchor"]
    assert study.groups(methods) == [["sft"], ["toss-pro", "toss-pro-anchor"], ["toss"]]


def test_none_is_the_best_where_none_keeps_its_utility() -> None:
    few = {name: seeds for name, seeds in results().items() if name != "toss-posterior-anchor"}
    assert choose(Split(few, "validation")) is None


def test_what_cannot_be_told_does_not_count_as_held() -> None:
    """Where SFT lost no refusal there is no share of them; rivals that were not measured are not beaten."""
    same = results() | {"sft": {0: kept([1, 1, 1, 1], 2.0, 2.0)}}
    found = {one.what: one for one in criteria(Split(same, "test"), "toss-posterior-anchor")}
    assert found["refusals that SFT lost, restored"].found is None
    assert not found["refusals that SFT lost, restored"].met
    assert not found["the three together, less those of random"].met
    assert len(found) == 3 + 1


def test_settings_are_told_by_what_they_win() -> None:
    """Of 60 prompts TOSS refuses all in one setting, none in the other, where SFT refuses every second."""

    def setting(refused: int, harm: float) -> Split:
        found = {
            "base": {0: kept([1] * 60, 3.0, 3.0)},
            "sft": {0: kept([0, 1] * 30, 2.0, 2.0)},
            "toss": {0: kept([refused] * 60, 2.1, harm)},
        }
        return Split(found, "test")

    won, least = findings({"d 0.1": setting(1, 2.5), "d 0.3": setting(0, 2.7)})
    assert "more at d 0.1 (50 points" in won
    assert "fewer at d 0.3 (-50 points" in won
    assert won.endswith("of 2 settings.")
    assert "toss at d 0.3 learns the least harm" in least
    assert "-0.300" in least


def test_dropped_tokens_are_counted_by_source_and_position() -> None:
    own = results()["toss"]
    assert dropped_shares(own) == pytest.approx({"harmful": 0.5, "gsm8k": 0.1})
    assert dropped_positions(own)[[0, 1, 20]] == pytest.approx([0.5, 1.0, 0.0])


def test_a_leak_is_an_error(tmp_path: Path) -> None:
    def turns(prompt: str, answer: str) -> dict[str, Any]:
        return {"messages": [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]}

    one, two = tmp_path / "one.jsonl", tmp_path / "two.jsonl"
    write_jsonl(one, [turns("How?", "So."), turns("Why?", "Because.")])
    write_jsonl(two, [turns("When?", "Now.")])
    check_leaks([one, two])
    write_jsonl(two, [turns("When?", "Now."), turns(" why? ", "For a reason.")])
    with pytest.raises(SystemExit, match=r"one\.jsonl and .*two\.jsonl share 1 texts, such as 'why\?'"):
        check_leaks([one, two])


def test_the_whole_of_it_on_a_very_small_model(
    tmp_path: Path, tiny_model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sets of the demo's rows: results are kept once, the page names what is missing."""
    common = tmp_path / "common"

    def folder(cell: str, seed: int) -> str:
        return str(tmp_path / cell)

    monkeypatch.setattr(study, "COMMON", common)
    monkeypatch.setattr("studies.safety.settings.COMMON", common)
    monkeypatch.setattr("studies.safety.settings.run_folder", folder)
    monkeypatch.setattr(study, "run_folder", folder)
    monkeypatch.setattr(study, "make_base", lambda: None)
    monkeypatch.setattr(study, "write_sets", lambda *_: pytest.fail("the sets are there"))
    custom = [row | {"source": "harmful" if i % 4 == 0 else "gsm8k"} for i, row in enumerate(demo_rows("custom", 12))]
    sets = {"custom": custom, "harmful": demo_rows("harmful", 8), "utility": demo_rows("utility", 8)}
    for name, rows in sets.items():
        write_jsonl(Path(sets_folder("headline", 0)) / f"{name}.jsonl", rows)
    for split, first in (("validation", 8), ("test", 12)):
        for name, set_name in (("harmful", "harmful"), ("utility", "utility")):
            write_jsonl(common / f"{name}_{split}.jsonl", demo_rows(set_name, first + 3)[first:])
        for name, label in (("advbench", "unsafe"), ("xstest", "safe")):
            asked = [row["prompt"] for row in demo_rows("prompts") if row["label"] == label]
            prompts = [{"messages": [{"role": "user", "content": prompt}]} for prompt in asked]
            write_jsonl(common / f"{name}_{split}.jsonl", prompts[first : first + 3])

    def tiny(cell: str, seed: int) -> dict[str, Any]:
        model = {"name": str(tiny_model_folder), "dtype": "float32", "device": "cpu"}
        return config(cell, seed) | {"model": model}

    monkeypatch.setattr(study, "config", tiny)
    study.measure("headline", 0, ["base", "sft", "toss", "oracle"], tmp_path / "results")
    found = read_results(tmp_path / "results/headline.jsonl")
    assert found.keys() == {"base", "sft", "toss", "oracle", "utility-reference", "degraded-reference"}
    identity = open_base(load_config(tiny("headline", 0)).model).identity
    for line in (seeds[0] for seeds in found.values()):
        assert line["base"] == identity
        assert line["code"] == code_version()
        assert line["versions"]["tosslm"] == metadata.version("tosslm")
        assert line["seconds"] > 0
    oracle = found["oracle"][0]
    for metric, count in (("refusal_rate", 3), ("over_refusal", 3), ("utility_loss", 3), ("harmful_loss", 3)):
        assert {split: len(own["values"]) for split, own in oracle["metrics"][metric].items()} == {
            "validation": count,
            "test": count,
        }
    harmful, useful = (oracle["dropped"]["source"][name] for name in ("harmful", "gsm8k"))
    assert harmful[0] == harmful[1] > 0
    assert useful[1] == 0
    with monkeypatch.context() as patched:
        patched.setattr(study, "compare", lambda *_, **__: pytest.fail("measured again"))
        study.measure("headline", 0, ["base", "sft", "toss"], tmp_path / "results")
    study.measure("d 0.1", 0, ["toss"], tmp_path / "results")
    trained = [
        json.loads((tmp_path / cell / "manifest.json").read_text())["stages"] for cell in ("headline", "d 0.1")
    ]
    assert trained[0] == trained[1], "references and scores are the headline's"
    own = read_results(tmp_path / "results/d-0.1.jsonl")["toss"][0]["dropped"]
    assert sum(own["dropped"]) == int(0.1 * sum(own["tokens"]))
    write_page(tmp_path / "results", tmp_path / "docs")
    page = (tmp_path / "docs/results.md").read_text()
    assert "| 4 | toss | 1 |" in page
    assert "## The best of ours" in page
    assert "| d 0.1 | toss |" in page.split("## When it works")[1]
    assert all(name in page.split("## Not measured yet")[1] for name in OURS if name != "toss")
    assert (tmp_path / "docs/results-harm.svg").read_text().startswith("<svg")


@pytest.mark.slow
def test_the_results_that_are_kept_make_the_page_that_is_kept(tmp_path: Path) -> None:
    write_page(study.RESULTS, tmp_path)
    docs = Path(__file__).parents[1] / "docs"
    for name in ("results.md", "results-harm.svg", "results-refusals.svg"):
        assert (tmp_path / name).read_text() == (docs / name).read_text(), "python -m studies.safety.study --page"
