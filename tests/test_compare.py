"""Methods compared on the very small model: shared work, own folders, one table."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from safetensors.numpy import load_file
from typer.testing import CliRunner

import tosslm
from conftest import DEMO, demo_rows, write_rows
from tosslm.cli import app
from tosslm.compare import compare, parse_seeds, share_told
from tosslm.config import Config, load_config
from tosslm.errors import InputError
from tosslm.evaluation.comparison import lost_refusals, spanned
from tosslm.evaluation.measures import Sample, read_samples
from tosslm.evaluation.pooling import pool, pooled_differences, pooled_intervals
from tosslm.methods import find_methods
from tosslm.pipeline import carry_out

METHODS = ("base", "sft", "random", "rows", "toss", "safeinstr", "seal", "constrained-sft", "oracle")


@pytest.fixture(scope="module")
def compared(
    tmp_path_factory: pytest.TempPathFactory, tiny_model_folder: Path
) -> tuple[Config, dict[str, Any], Path]:
    """Nine methods on twelve rows."""
    folder = tmp_path_factory.mktemp("compare")
    rows = demo_rows("custom", 12)
    for i, row in enumerate(rows):
        row["source"] = "harm" if i % 4 == 0 else "fine"
    write_rows(folder / "custom.jsonl", rows)
    for name in ("harmful", "utility"):
        write_rows(folder / f"{name}.jsonl", demo_rows(name, 6))
    write_rows(folder / "safety.jsonl", demo_rows("align_refusals", 5))
    training = {"learning_rate": 0.02, "epochs": 1, "batch_size": 4, "micro_batch_size": 4}
    config = load_config(
        {
            "run_dir": str(folder / "run"),
            "model": {"name": str(tiny_model_folder), "dtype": "float32", "device": "cpu"},
            "data": {name: {"path": str(folder / f"{name}.jsonl")} for name in ("custom", "harmful", "utility")},
            "references": {**training, "holdout": 0.3},
            "finetune": {**training, "dropped": "ignore"},
            "selection": {"discard_fraction": 0.2, "evidence": "token"},
            "compare": {
                "harmful_sources": ["harm"],
                "safety": {"path": str(folder / "safety.jsonl")},
                "safety_share": 0.25,
            },
            "evaluation": {
                "harmful": {"path": str(DEMO / "data/prompts.jsonl"), "where": {"label": "unsafe"}, "limit": 3},
                "max_new_tokens": 2,
                "refusals": ["No."],
            },
        }
    )
    return config, compare(config, METHODS), Path(config.run_dir) / "compare"


def test_one_record_a_method_in_the_format_of_evaluate(compared: tuple[Config, dict[str, Any], Path]) -> None:
    _, results, root = compared
    assert results == json.loads((root / "results.json").read_text())
    assert [(r["method"], r["seed"]) for r in results["records"]] == [
        (name, None if name == "base" else 0) for name in METHODS
    ]
    for record in results["records"]:
        assert record["metrics"]["refusal_rate"]["n"] == 3
        assert set(record["metrics"]["utility_loss"]) == {"value", "low", "high", "n"}
    toss = next(entry for entry in results["summary"] if entry["method"] == "toss")
    values = {
        name: {r["method"]: r["metrics"][name]["value"] for r in results["records"]} for name in toss["metrics"]
    }
    difference = toss["minus_sft"]["utility_loss"]
    assert difference["value"] == pytest.approx(values["utility_loss"]["toss"] - values["utility_loss"]["sft"])
    assert difference["low"] <= difference["value"] <= difference["high"]


def test_the_causes_are_what_the_oracle_tells_apart() -> None:
    """Of four prompts the base refuses all, the oracle three, SFT one; SFT has a seed that the oracle lacks."""

    def refused(*values: float) -> dict[str, Sample]:
        return {"refusal_rate": Sample(list("abcd"), np.array(values))}

    samples: dict[str, dict[int | None, dict[str, Sample]]] = {
        "base": {None: refused(1, 1, 1, 1)},
        "oracle": {1: refused(1, 1, 1, 0)},
        "sft": {0: refused(1, 1, 1, 1), 1: refused(1, 0, 0, 0)},
    }
    causes = lost_refusals(samples, 0)
    assert causes is not None
    assert {name: cause["value"] for name, cause in causes.items()} == {"forgotten": 0.25, "learnt": 0.5}
    assert lost_refusals({name: samples[name] for name in ("base", "sft")}, 0) is None
    assert "learnt" not in (lost_refusals(samples | {"sft": {0: refused(1, 1, 1, 1)}}, 0) or {})


def test_references_and_scores_are_made_once(compared: tuple[Config, dict[str, Any], Path]) -> None:
    config, _, root = compared
    own = Path(config.run_dir) / "scores/round-0/part-00000.parquet"
    assert own.stat().st_ino == (root / "toss/seed-0/scores/round-0/part-00000.parquet").stat().st_ino
    assert not (root / "base/untrained/model").exists()
    assert not (root / "shared").exists()
    assert not (Path(config.run_dir) / "model").exists()


def test_toss_is_what_a_run_does(compared: tuple[Config, dict[str, Any], Path], tmp_path: Path) -> None:
    """A method's folder is a run like any other, with the adapter that the pipeline makes."""
    config, _, root = compared
    alone = tosslm.run(config.model_copy(update={"run_dir": str(tmp_path / "alone")}), until="finetune")
    ours = tosslm.load_run(root / "toss/seed-0")
    assert [k.tolist() for k in ours.keep()] == [k.tolist() for k in alone.keep()]
    for folder in ("references/utility", "model"):
        one, two = (load_file(path / folder / "adapter_model.safetensors") for path in (ours.path, alone.path))
        assert all(np.array_equal(one[name], two[name]) for name in one)


def test_a_method_that_does_as_the_run_did_takes_its_mask_and_model_over(
    compared: tuple[Config, dict[str, Any], Path], tmp_path: Path
) -> None:
    config = compared[0].model_copy(update={"run_dir": str(tmp_path / "run")})
    run = tosslm.run(config, until="finetune").path

    def taken(method: str) -> list[bool]:
        folder = run / f"compare/{method}/seed-0"
        files = ("selection/keep.parquet", "model/adapter_model.safetensors")
        return [(folder / file).samefile(run / file) for file in files]

    results = compare(config, ["toss", "random", "oracle"])
    assert [record["method"] for record in results["records"]] == ["toss", "random", "oracle"]
    assert taken("toss") == [True, True]
    assert taken("random") == taken("oracle") == [False, False]
    slower = load_config(config.model_dump(exclude_unset=True), ["finetune.learning_rate=0.01"])
    compare(slower, ["toss"])
    assert taken("toss") == [True, False]


def test_a_run_takes_over_what_a_comparison_has_made_and_measured(
    compared: tuple[Config, dict[str, Any], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A method that does as the run would is the run; base and model are asked once."""
    config = compared[0].model_copy(update={"run_dir": str(tmp_path / "run")})
    alone = tosslm.run(config.model_copy(update={"run_dir": str(tmp_path / "alone")}), until="evaluate")
    compare(config, ["base", "toss", "random"])
    with monkeypatch.context() as patch:
        patch.setattr("tosslm.evaluation.measurement.evaluate_model", None)
        patch.setattr("tosslm.training.train.train_adapter", None)
        run = tosslm.run(config, until="evaluate")
    for file in ("model/adapter_model.safetensors", "evaluation/model/samples.json"):
        assert (run.path / file).samefile(run.path / f"compare/toss/seed-0/{file}")
    assert (run.path / "evaluation/base/record.json").samefile(
        run.path / "compare/base/untrained/evaluation/base/record.json"
    )
    for file in ("results.json", "base/harmful.jsonl", "model/harmful.jsonl", "model/record.json"):
        assert (run.path / "evaluation" / file).read_bytes() == (alone.path / "evaluation" / file).read_bytes()
    assert "evaluation/model: the very same was done in" in run.layout.log.read_text()
    asked = load_config(config.model_dump(exclude_unset=True), ["evaluation.max_new_tokens=3"])
    again = tosslm.run(asked, until="evaluate").path / "evaluation/model/samples.json"
    assert not again.samefile(run.path / "compare/toss/seed-0/evaluation/model/samples.json")


def test_a_fresh_run_takes_nothing_over(compared: tuple[Config, dict[str, Any], Path], tmp_path: Path) -> None:
    config = compared[0].model_copy(update={"run_dir": str(tmp_path / "run")})
    compare(config, ["base"])
    theirs = tmp_path / "run/compare/base/untrained/evaluation/base/record.json"
    assert (tosslm.run(config, until="evaluate").path / "evaluation/base/record.json").samefile(theirs)
    run = tosslm.run(config, until="evaluate", fresh=True).path
    assert not (run / "evaluation/base/record.json").samefile(theirs)
    assert (run / "evaluation/base/record.json").read_bytes() == theirs.read_bytes()


def test_what_a_comparison_has_damaged_is_done_and_not_taken_over(
    compared: tuple[Config, dict[str, Any], Path], tmp_path: Path
) -> None:
    config = compared[0].model_copy(update={"run_dir": str(tmp_path / "run")})
    compare(config, ["base"])
    theirs = tmp_path / "run/compare/base/untrained"
    (theirs / "evaluation/base/record.json").write_text("{}")
    (tmp_path / "run/compare/other/seed-0").mkdir(parents=True)
    (tmp_path / "run/compare/other/seed-0/manifest.json").write_text("no manifest")
    run = tosslm.run(config, until="evaluation/base")
    assert json.loads((run.path / "evaluation/base/record.json").read_text())["method"] == "base"


def test_masks_on_disk_have_the_methods_properties(compared: tuple[Config, dict[str, Any], Path]) -> None:
    _, _, root = compared
    keep = {name: tosslm.load_run(root / name / "seed-0").keep() for name in METHODS if name != "base"}
    tokens = sum(map(len, keep["sft"]))
    gone = {name: sum(int((~row).sum()) for row in rows) for name, rows in keep.items()}
    assert gone["sft"] == gone["safeinstr"] == gone["constrained-sft"] == 0
    assert gone["toss"] == gone["random"] == int(0.2 * tokens)
    for name in ("rows", "seal"):
        assert 0 < gone[name] <= gone["toss"]
        assert all(row.all() or not row.any() for row in keep[name])
    sources = tosslm.load_run(root / "oracle/seed-0").rows["source"]
    assert [row.any() for row in keep["oracle"]] == [source != "harm" for source in sources]
    told = json.loads((root / "oracle/seed-0/selection/selection.json").read_text())
    assert told["sources"]["harm"]["discarded"] == told["sources"]["harm"]["tokens"] == told["discarded"]
    assert [row.tolist() for row in keep["random"]] != [row.tolist() for row in keep["toss"]]


def test_what_changes_the_training_trains_otherwise(compared: tuple[Config, dict[str, Any], Path]) -> None:
    _, _, root = compared
    facts = {
        name: tosslm.load_run(root / name / "seed-0").manifest["stages"]["model"]
        for name in ("sft", "safeinstr", "constrained-sft")
    }
    assert (facts["sft"]["rows"], facts["safeinstr"]["rows"]) == (12, 15)  # a quarter more
    adapters = {name: load_file(root / name / "seed-0/model/adapter_model.safetensors") for name in facts}
    for name in ("safeinstr", "constrained-sft"):
        assert any(not np.array_equal(adapters[name][key], adapters["sft"][key]) for key in adapters["sft"])


def test_a_second_call_does_nothing_and_a_further_method_only_its_own(
    compared: tuple[Config, dict[str, Any], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    config, results, _ = compared
    trained: list[str] = []

    def watched(wanted: Any, bench: Any, **kwargs: Any) -> None:
        before = {name: dict(entry) for name, entry in bench.folder.stages.items()}
        carry_out(wanted, bench, **kwargs)
        trained.extend(
            f"{bench.folder.path.parent.name}: {name}"
            for name, entry in bench.folder.stages.items()
            if before.get(name) != entry
        )

    monkeypatch.setattr("tosslm.compare.carry_out", watched)
    assert compare(config, METHODS) == results
    assert trained == []
    compare(config, ["sft", "first-k"])
    steps = ("selection", "model", "evaluation/model", "evaluation/results")
    assert trained == [f"first-k: {step}" for step in steps]


def test_seals_mask_is_the_same_twice_and_hangs_on_its_demonstrations(
    compared: tuple[Config, dict[str, Any], Path], tmp_path: Path
) -> None:
    config, _, root = compared
    again = config.model_copy(update={"run_dir": str(tmp_path / "again")})
    assert compare(again, ["seal"])["failed"] == []
    folder = tmp_path / "again/compare/seal/seed-0"
    ours = tosslm.load_run(root / "seal/seed-0").keep()
    assert [row.tolist() for row in tosslm.load_run(folder).keep()] == [row.tolist() for row in ours]
    assert not (folder / "references").exists()  # it needs no more than the data
    assert not (tmp_path / "again/references").exists()
    manifest = folder / "manifest.json"
    before = json.loads(manifest.read_text())["stages"]
    write_rows(tmp_path / "safety.jsonl", demo_rows("align_refusals", 4))
    moved = load_config(again.model_dump(mode="json"), [f"compare.safety.path={tmp_path / 'safety.jsonl'}"])
    compare(moved, ["seal"])
    after = json.loads(manifest.read_text())["stages"]
    assert before["data"] == after["data"]
    assert before["selection"]["fingerprint"] != after["selection"]["fingerprint"]


def test_several_seeds_have_references_of_their_own(compared: tuple[Config, dict[str, Any], Path]) -> None:
    config, _, root = compared
    results = compare(config, ["base", "toss", "sft"], seeds=[0, 1])
    assert [(r["method"], r["seed"]) for r in results["records"]] == [
        ("base", None),
        ("toss", 0),
        ("toss", 1),
        ("sft", 0),
        ("sft", 1),
    ]
    first, second = (
        pq.read_table(root / f"toss/seed-{seed}/scores/round-0/part-00000.parquet")["loss_degraded"]
        for seed in (0, 1)
    )
    assert first != second
    toss = next(entry for entry in results["summary"] if entry["method"] == "toss")
    samples = [read_samples(root / f"toss/seed-{seed}/evaluation/model")["utility_loss"] for seed in (0, 1)]
    means = [np.average(sample.values, weights=sample.weights) for sample in samples]
    assert toss["metrics"]["utility_loss"]["value"] == pytest.approx(np.mean(means))
    for end in ("value", "low", "high"):
        loss = toss["metrics"]["utility_loss"][end]
        assert toss["metrics"]["utility_perplexity"][end] == pytest.approx(np.exp(loss))
    assert results["prints"].keys() == {"base", "toss", "sft"}
    assert results["prints"]["toss"].keys() == {"0", "1"}


def test_what_is_a_figure_alone_spans_the_seeds() -> None:
    """As lm-eval's: of each seed the same documents, so no interval is narrower than one seed's."""
    first = {"lm_eval/x/acc": {"value": 0.5, "low": 0.4, "high": 0.6, "n": 9}, "alone": {"value": 1.0}}
    second = {"lm_eval/x/acc": {"value": 0.3, "low": 0.25, "high": 0.35, "n": 9}}
    assert spanned([first, second]) == {"lm_eval/x/acc": {"value": 0.4, "low": 0.25, "high": 0.6, "n": 9}}
    assert spanned([second]) == second


def test_scaled_adapters_stand_beside_the_whole_ones(compared: tuple[Config, dict[str, Any], Path]) -> None:
    config, before, _ = compared
    scaled = load_config(config.model_dump(), ["evaluation.scales=[0.5]"])
    results = compare(scaled, ["base", "sft", "toss"])
    keys = [(entry["method"], entry.get("scale")) for entry in results["summary"]]
    assert keys == [("base", None), ("sft", None), ("toss", None), ("sft", 0.5), ("toss", 0.5)]
    assert [(r["method"], r.get("scale")) for r in results["records"]] == keys
    known = {entry["method"]: entry["metrics"] for entry in before["summary"]}
    metrics = {key: entry["metrics"] for key, entry in zip(keys, results["summary"], strict=True)}
    assert metrics["sft", None] == known["sft"]
    assert metrics["sft", 0.5] != known["sft"]
    by_key = dict(zip(keys, results["summary"], strict=True))
    assert "minus_sft" not in by_key["sft", None]
    gain = by_key["sft", 0.5]["minus_sft"]["utility_loss"]["value"]
    half, whole = (metrics["sft", scale]["utility_loss"]["value"] for scale in (0.5, None))
    assert gain == pytest.approx(half - whole)


def test_a_method_that_fails_stops_none_of_the_others(compared: tuple[Config, dict[str, Any], Path]) -> None:
    """References of random weights do not tell harm from use, so there is no evidence to learn."""
    config, _, _ = compared
    results = compare(config, ["toss-posterior", "sft"])
    assert [(r["method"], r["seed"]) for r in results["records"]] == [("sft", 0)]
    (failed,) = results["failed"]
    assert (failed["method"], failed["seed"]) == ("toss-posterior", 0)
    assert "do not tell harm from use" in failed["reason"]


def test_what_the_door_refuses(compared: tuple[Config, dict[str, Any], Path], tmp_path: Path) -> None:
    config, _, _ = compared
    tree = config.model_dump(mode="json") | {"run_dir": str(tmp_path / "other")}
    with pytest.raises(InputError, match="nothing to measure"):
        compare(load_config(tree, ["evaluation={}"]), ["sft"])
    with pytest.raises(InputError, match=r"compare\.harmful_sources"):
        compare(load_config(tree, ["compare.harmful_sources=[]"]), ["sft", "oracle"])
    with pytest.raises(InputError, match="normalize: all does not go with dropped: anchor"):
        compare(load_config(tree, ["finetune.normalize=all"]), ["sft", "toss-anchor"])
    assert not (tmp_path / "other").exists()
    path = tmp_path / "toss.yaml"
    path.write_text(yaml.safe_dump(tree))
    bad = CliRunner().invoke(app, ["compare", str(path), "--methods", "sft,other"])
    assert bad.exit_code == 2
    assert "no method other; known: base, sft" in bad.stderr
    listed = CliRunner().invoke(app, ["compare", "--methods", "help"])
    assert "constrained-sft: " in listed.stdout
    machines = CliRunner().invoke(app, ["compare", str(path), "--methods", "help", "--json"])
    assert {"name": "base", "badge": "control"}.items() <= json.loads(machines.stdout)[0].items()
    with pytest.raises(InputError, match="--seeds"):
        parse_seeds("0,one")
    assert parse_seeds("0, 2") == [0, 2]


def test_pools_keep_prompts_that_all_seeds_have() -> None:
    one = {"x": Sample(["a", "b", "c"], np.array([1.0, 0.0, 1.0])), "y": Sample(["a"], np.array([1.0]))}
    two = {"x": Sample(["c", "a"], np.array([0.0, 1.0]))}
    pools = pool([one, two])
    assert set(pools) == {"x"}
    assert pools["x"].ids == ["a", "c"]
    assert pools["x"].values.tolist() == [[1.0, 1.0], [1.0, 0.0]]
    assert pooled_intervals(pools)["x"].value == 0.75
    alone = pool([{"x": Sample(["c", "a"], np.array([1.0, 0.0]))}])
    difference = pooled_differences(pools, alone)["x"]  # a: 1 and 1 against 0, c: 1 and 0 against 1
    assert difference.value == pytest.approx((1 + 0 + 1 - 1) / 4)


def test_who_drops_the_papers_share_for_want_of_another_is_said() -> None:
    sets = {"data": {name: {"path": f"{name}.jsonl"} for name in ("custom", "harmful", "utility")}}
    chosen = find_methods(["base", "sft", "random", "toss", "toss-posterior-anchor", "rows-anchor"])
    assert share_told(load_config(sets, ["selection.discard_fraction=0.2"]), chosen) is None
    said = share_told(load_config(sets), chosen)
    assert said is not None
    assert said.startswith("random, toss, rows-anchor: 10% of the tokens go")
