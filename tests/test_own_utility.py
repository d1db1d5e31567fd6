"""`data.utility: {from: custom}`: rows of the custom set in the place of a utility set, cross-fitted and trimmed."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from peft import PeftModel
from typer.testing import CliRunner

import tosslm
from conftest import demo_rows, write_rows
from support.benches import SETS
from tosslm.cli import app
from tosslm.config import covered, load_config
from tosslm.data.own_utility import fold_of, rows_dealt, scoring_fold
from tosslm.data.rows import content_id, held_out
from tosslm.errors import InputError
from tosslm.evaluation.external import evaluate_external
from tosslm.evaluation.measures import read_samples
from tosslm.methods import settled
from tosslm.model.base import open_base
from tosslm.plan import make_plan
from tosslm.progress import SilentReporter
from tosslm.runs.ranking import check_held_out
from tosslm.runs.tables import stored_rows
from tosslm.runs.verify import verify
from tosslm.selection.joining import trusted_rows
from tosslm.shares import score_shard
from tosslm.stages.shard import Shard
from tosslm.starter import starter_config

FROM_CUSTOM = {"data": SETS | {"utility": {"from": "custom"}}}


def ids(count: int) -> list[str]:
    return [content_id([{"role": "user", "content": str(number)}]) for number in range(count)]


def test_a_row_is_scored_by_the_fold_it_is_not_of_and_copies_stay_together() -> None:
    rows = ids(400)
    assert [fold_of(row) for row in rows] == [1 if row[-1] in "13579bdf" else 0 for row in rows]
    assert 150 < sum(map(fold_of, rows)) < 250
    for row in rows:
        assert fold_of(f"{row}-2") == fold_of(row) == 1 - scoring_fold(row)


@given(st.integers(2, 60), st.integers(1, 80), st.randoms())
def test_the_rows_that_stand_in_are_a_choice_of_contents_alone(count: int, most: int, random: Any) -> None:
    rows = ids(count)
    shuffled = [*rows, f"{rows[0]}-2"]
    random.shuffle(shuffled)
    by_hash = sorted(rows, key=lambda row: hashlib.sha256(row.encode()).hexdigest())
    assert rows_dealt(shuffled, most) == set(by_hash[:most])
    assert rows_dealt(shuffled, None) == set(rows)
    assert held_out(rows_dealt(rows, most), 0.1) <= rows_dealt(rows, most)


@given(st.lists(st.floats(-5, 5), min_size=1, max_size=30), st.floats(0, 0.99))
def test_the_rows_of_the_lowest_means_stay(means: list[float], trim: float) -> None:
    order = sorted(range(len(means)), key=lambda row: (means[row], row))
    stay = order[: max(1, round((1 - trim) * len(means)))]
    assert np.flatnonzero(trusted_rows(np.array(means), trim)).tolist() == sorted(stay)


def test_a_row_without_a_number_is_not_ranked() -> None:
    with pytest.raises(ValueError, match="row 1 has a mean score of nan"):
        trusted_rows(np.array([0.0, np.nan]), 0.5)
    assert trusted_rows(np.zeros(0), 0.5).tolist() == []


def test_the_config_is_read_back_as_it_was_written() -> None:
    config = load_config(FROM_CUSTOM, ["data.utility.rows=null", "data.utility.trim=0.3"])
    stored = config.model_dump(mode="json")
    assert stored["data"]["utility"] == {"from": "custom", "rows": None, "trim": 0.3}
    assert load_config(stored) == config
    assert load_config(FROM_CUSTOM).data.utility.rows == 2000


def test_a_run_with_a_utility_set_is_known_as_before_and_the_trim_is_no_matter_of_the_data() -> None:
    plain = load_config({"data": SETS}).data
    assert covered(plain)["utility"] == covered(plain)["custom"] | {"path": "utility.jsonl"}
    trims = [load_config(FROM_CUSTOM, [f"data.utility.trim={trim}"]).data for trim in (0.1, 0.5)]
    assert covered(trims[0]) == covered(trims[1])


@pytest.mark.parametrize(
    ("utility", "said"),
    [
        ({}, r"data\.utility: no rows are named; give path, or, .* from: custom"),
        (
            {"from": "custom", "path": "u.jsonl"},
            r"data\.utility: path beside from: .* a path, or from, not both",
        ),
        ({"from": "custom", "limit": 3}, r"data\.utility: limit beside from: the rows are read as data\.custom says"),
        ({"path": "u.jsonl", "rows": 5}, r"data\.utility: rows beside path: counts with from: custom only"),
        ({"path": "u.jsonl", "trim": 0.1}, r"data\.utility: trim beside path"),
        ({"from": "harmful"}, r"data\.utility\.from: give custom"),
        ({"from": "custom", "trim": 1}, r"data\.utility\.trim: "),
        ({"from": "custom", "share": 1}, r"data\.utility\.share: unknown key; known here: .*from, rows, trim"),
    ],
)
def test_what_is_meant_by_halves_is_refused(utility: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        load_config({"data": SETS | {"utility": utility}})


def test_the_key_is_in_the_full_starter_config() -> None:
    assert "    from: null\n" in starter_config(full=True)
    assert "from:" not in starter_config()


@pytest.mark.parametrize("method", ["dsir", "datashield"])
def test_a_method_that_reads_the_utility_set_itself_is_refused(method: str) -> None:
    with pytest.raises(InputError, match=r"name one in data\.utility\.path"):
        settled(load_config(FROM_CUSTOM | {"method": method, "compare": {"safety": {"path": "s.jsonl"}}}))[1].check(
            load_config(FROM_CUSTOM | {"compare": {"safety": {"path": "s.jsonl"}}})
        )


def test_too_few_rows_after_the_trim_are_refused_before_anything_is_trained() -> None:
    config = load_config(FROM_CUSTOM)
    check_held_out(config, {"harmful": 100, "utility": 100})
    # Of 80 rows 8 are held out, of which half stay; the posterior takes 5.
    with pytest.raises(InputError, match=r"of 80 rows 8 are held out .* of which 4 stay"):
        check_held_out(config, {"harmful": 100, "utility": 80})


@pytest.fixture
def own_config(tiny_config: dict[str, Any]) -> dict[str, Any]:
    """A round of TOSS-Pro on a handful of rows, of which one is there twice; no utility set."""
    custom = Path(tiny_config["data"]["custom"]["path"])
    rows = [json.loads(line) for line in custom.read_text().splitlines()]
    write_rows(custom, [*rows, rows[0]])
    return tiny_config | {"data": tiny_config["data"] | {"utility": {"from": "custom", "rows": 20}}}


def plain_losses(model: Any, row: dict[str, Any]) -> np.ndarray:
    """Of each response token, from logits alone; no batch, no code of ours."""
    import torch

    tokens = torch.tensor([row["input_ids"]])
    with torch.no_grad():
        logs = torch.log_softmax(model(tokens).logits[0].float(), dim=-1)
    places = np.flatnonzero(row["response_mask"])
    return np.array([-logs[place - 1, row["input_ids"][place]].item() for place in places])


def loaded(run: tosslm.Run, adapter: str, rows: list[dict[str, Any]]) -> list[np.ndarray]:
    """Losses of rows under an adapter of the run, or under the base."""
    base = open_base(run.config.model)
    model = PeftModel.from_pretrained(base.model, run.path / adapter).eval() if adapter else base.model
    losses = [plain_losses(model, row) for row in rows]
    if adapter:
        model.unload()
    return losses


@pytest.mark.long
@pytest.mark.slow
def test_a_run_without_a_utility_set(own_config: dict[str, Any]) -> None:
    """Every row served as the page says, by plain computations; resumed, it is the same to the byte."""
    run = tosslm.run(own_config, until="select")
    layout, columns = run.layout, ("row_id", "input_ids", "response_mask")
    custom, stand_in = (list(stored_rows(layout.rows(name), columns)) for name in ("custom", "utility"))
    lines = Path(own_config["data"]["custom"]["path"]).read_text().splitlines()
    everything = {content_id(json.loads(line)["messages"]) for line in lines}
    by_hash = sorted(everything, key=lambda row: hashlib.sha256(row.encode()).hexdigest())
    apart = set(by_hash[:4])  # 0.2 of 20
    assert {row["row_id"].split("-")[0] for row in stand_in} == set(by_hash[:20])
    assert {row["row_id"].split("-")[0] for row in custom} == everything - apart

    stored = json.loads(layout.trusted.read_text())["groups"]
    plain, degraded = loaded(run, "", stand_in), loaded(run, "references/degraded/round-0", stand_in)
    means = {row["row_id"]: float(np.mean(a - b)) for row, a, b in zip(stand_in, plain, degraded, strict=True)}
    groups = {row_id: "held_out" if row_id.split("-")[0] in apart else f"fold-{fold_of(row_id)}" for row_id in means}
    for name, group in stored.items():
        members = [row_id for row_id in means if groups[row_id] == name]
        stay = set(group["row_ids"])
        assert group["of"] == len(members)
        assert stay < set(members)
        assert len(stay) == max(1, round(0.5 * len(members)))
        assert max(means[one] for one in stay) <= min(means[one] for one in set(members) - stay) + 1e-5

    scored = {row["row_id"]: row for part in layout.of("scores/round-0").glob("part-*") for row in stored_rows(part)}
    assert set(scored) == {row["row_id"] for row in custom}
    for fold in (0, 1):
        rows = [row for row in custom if fold_of(row["row_id"]) != fold]
        for row, losses in zip(rows, loaded(run, f"references/own-utility/fold-{fold}", rows), strict=True):
            np.testing.assert_allclose(scored[row["row_id"]]["loss_utility"], losses, atol=1e-4)
    held = [row["row_id"] for row in stored_rows(layout.heldout(1)) if row["set"] == "utility"]
    assert sorted(held) == sorted(stored["held_out"]["row_ids"])
    assert any(said.startswith("No utility set: two utility references") for said in run.manifest["warnings"])

    before = run.stages["selection"]["files"], run.stages["scores/round-1"]["files"]
    (layout.root / "references/own-utility/fold-1/adapter_model.safetensors").unlink()
    layout.trusted.write_text("{}")
    (layout.of("scores/round-0") / "part-00001.parquet").unlink()
    again = tosslm.run(own_config, until="select")
    assert (again.stages["selection"]["files"], again.stages["scores/round-1"]["files"]) == before
    assert verify(again)[1] == []


@pytest.mark.long
@pytest.mark.slow
def test_shards_and_a_proxy_make_the_same_scores(own_config: dict[str, Any], tmp_path: Path) -> None:
    """Two shards, and the base as its own proxy at once, against one process."""
    alone = tosslm.run(own_config, until="score")
    of_base = {"model": own_config["model"]["name"], "adapter": own_config["model"]["adapter"]}
    other = own_config | {
        "run_dir": str(tmp_path / "other"),
        "references": own_config["references"] | of_base,
    }
    tosslm.run(other, until="references")
    for number in (1, 0):
        score_shard(other, Shard(number, 2))
    gathered = tosslm.run(other, until="score")
    entry = gathered.stages["scores/round-0"]
    assert (entry["parts_reused"], entry["tokens"]) == (entry["parts"], 0)
    for file in sorted(alone.scores_folder(0).iterdir()):
        assert list(stored_rows(file)) == list(stored_rows(gathered.scores_folder(0) / file.name)), file.name


@pytest.mark.long
@pytest.mark.slow
def test_an_export_says_that_its_own_rows_taught_the_references(own_config: dict[str, Any], tmp_path: Path) -> None:
    """The whole run, report included; its exports hold what it fine-tuned on, and no held-out row."""
    run = tosslm.run(own_config | {"refinement": {"rounds": 0}})
    out = tmp_path / "export"
    done = CliRunner().invoke(app, ["export", str(run.path), str(out), "--to", "trl"])
    assert done.exit_code == 0, done.output
    facts = json.loads((out / "export.json").read_text())
    assert facts["choice"]["utility"] == "custom"
    assert facts["rows"] == run.stages["data"]["sets"]["custom"]["rows"]
    assert "two utility references learnt from rows of the custom set" in (out / "README.md").read_text()
    assert "No utility set: two utility references" in run.layout.report.read_text()


@pytest.mark.slow
def test_the_plan_counts_the_rows_that_the_run_reads(own_config: dict[str, Any]) -> None:
    plan = make_plan(load_config(own_config), measure=False, reporter=SilentReporter())
    run = tosslm.run(own_config, until="data")
    read = run.stages["data"]["sets"]
    assert {name: counts | {"sources": None} for name, counts in plan["sets"].items()} == {
        name: counts | {"sources": None} for name, counts in read.items()
    }
    assert f"{read['utility']['rows']} rows of the custom set stand in" in plan["utility_told"]


@pytest.mark.slow
def test_a_plan_lists_the_bad_rows_of_a_custom_set_that_has_no_others(own_config: dict[str, Any]) -> None:
    """Nothing of it can stand in for a utility set; what is to be mended is the custom set."""
    write_rows(Path(own_config["data"]["custom"]["path"]), [{"messages": "none"}] * 80)
    write_rows(Path(own_config["data"]["harmful"]["path"]), demo_rows("harmful", 30))
    data = own_config["data"] | {"utility": {"from": "custom"}}
    config = load_config(own_config | {"data": data, "selection": {}})  # the posterior, which takes held-out rows
    plan = make_plan(config, measure=False, reporter=SilentReporter())
    assert [row["set"] for row in plan["bad_rows"]] == ["custom"] * 80
    assert plan["sets"]["utility"]["rows"] == 0


@pytest.mark.slow
def test_a_model_from_elsewhere_is_measured_on_the_rows_that_the_run_holds_out(
    own_config: dict[str, Any], tmp_path: Path
) -> None:
    """Rows that are dealt and give no tokens make no room for others: those of others have been trained on."""
    custom = Path(own_config["data"]["custom"]["path"])
    rows = [json.loads(line) for line in custom.read_text().splitlines()]
    asked = [[{"role": "user", "content": "word " * 300 + str(number)}] for number in range(12)]
    write_rows(custom, [*rows, *({"messages": [*one, {"role": "assistant", "content": "Yes."}]} for one in asked)])
    data = own_config["data"] | {"max_length": 200, "on_bad_row": "skip"}
    config = own_config | {"data": data, "evaluation": {"utility_prompts": 1, "max_new_tokens": 1}}
    run = tosslm.run(config, until="data")
    assert run.stages["data"]["sets"]["custom"]["bad"] == 12
    apart = held_out([row["row_id"] for row in stored_rows(run.layout.rows("utility"))], 0.2)
    model = own_config["model"]["name"]
    out = tmp_path / "out"
    evaluate_external(load_config(config), model=model, adapter=None, folder=out, reporter=SilentReporter())
    assert {
        row_id.partition("-")[0] for row_id in read_samples(out / "evaluation/model")["utility_loss"].ids
    } == apart
