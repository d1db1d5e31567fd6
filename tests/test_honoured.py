"""What a config says is honoured, refused or said: cases in which it once was neither."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

import tosslm
from conftest import write_rows
from tosslm.cli import app
from tosslm.config import EvaluationConfig, load_config
from tosslm.config.idle import idle_keys, idle_outside
from tosslm.data.rows import BadRow, Row, read_rows
from tosslm.errors import InputError
from tosslm.evaluation.checks import classifier_checksums
from tosslm.evaluation.external import evaluate_external
from tosslm.export.handing import export_run
from tosslm.merge import merge
from tosslm.methods.needs import guard_parts
from tosslm.progress import SilentReporter
from tosslm.training.labels import places_of, write_training_rows
from tosslm.training.masked import selective_rows
from tosslm.transfer import transfer


@pytest.fixture
def until_select(tiny_config: dict[str, Any]) -> dict[str, Any]:
    """Nothing is trained for it."""
    return tiny_config | {"method": "random", "refinement": {}}


# --- models that judge


@pytest.fixture
def judge_folder(tmp_path: Path, tiny_model_folder: Path) -> Path:
    return Path(shutil.copytree(tiny_model_folder, tmp_path / "judge"))


def trained_further(folder: Path) -> None:
    file = folder / "model.safetensors"
    save_file({name: weight + 1 for name, weight in load_file(file).items()}, file, metadata={"format": "pt"})


def test_a_classifier_that_is_trained_further_at_the_same_place_is_another_one(judge_folder: Path) -> None:
    asked = {"harmful": {"path": "p.jsonl"}, "classifier": {"model": str(judge_folder)}}
    settings = EvaluationConfig.model_validate(asked)
    before = classifier_checksums(settings)
    assert classifier_checksums(settings) == before != []
    trained_further(judge_folder)
    assert classifier_checksums(settings) != before
    # Where nobody asks it, it need not even be there.
    for unasked in ({"harmful": None}, {"judge": {"model": "x", "attack_prompt": "{prompt} {answer}"}}):
        assert classifier_checksums(EvaluationConfig.model_validate(asked | unasked)) == []


def test_a_guard_that_is_trained_further_is_asked_again(until_select: dict[str, Any], judge_folder: Path) -> None:
    config = load_config(until_select | {"compare": {"guard": {"model": str(judge_folder)}}})
    bench: Any = SimpleNamespace(config=config)
    before = guard_parts(bench)
    assert guard_parts(bench) == before
    trained_further(judge_folder)
    assert guard_parts(bench) != before


# --- settings that a choice rests on


def test_dsir_goes_by_the_rows_that_are_not_held_out_now(until_select: dict[str, Any], tmp_path: Path) -> None:
    config = until_select | {"method": "dsir"}
    tosslm.run(config, until="select")
    other = config | {"references": config["references"] | {"holdout": 0.8}}
    again, fresh = (
        np.concatenate(tosslm.run(one, until="select").keep())
        for one in (other, other | {"run_dir": str(tmp_path / "b")})
    )
    np.testing.assert_array_equal(again, fresh)


def test_each_source_that_is_called_harmful_has_to_be_there(until_select: dict[str, Any]) -> None:
    compared = {"harmful_sources": ["unsafe", "mixd"]}
    with pytest.raises(
        InputError, match=r"compare\.harmful_sources: no custom row has the source 'mixd'; there are: "
    ):
        tosslm.run(until_select | {"method": "oracle", "compare": compared}, until="select")


# --- what is handed over


def test_what_another_config_made_is_not_handed_over(until_select: dict[str, Any], tmp_path: Path) -> None:
    """A run of another method that ended early leaves the first one's mask, and would give it its name."""
    run = tosslm.run(until_select, until="select")
    mask = run.layout.keep.read_bytes()
    early = tosslm.run(until_select | {"method": "first-k"}, until="data")
    assert early.layout.keep.read_bytes() == mask
    assert any("Of another config: selection" in warning for warning in early.manifest["warnings"])
    refused = r"its config was changed after its selection was made.*`toss select "
    with pytest.raises(InputError, match=refused):
        export_run(early, "parquet", tmp_path / "out")
    with pytest.raises(InputError, match=refused):
        tosslm.masked_dataset(early)
    with pytest.raises(InputError, match=refused):
        transfer(early, tmp_path / "other", tokenizer=until_select["model"]["name"])
    assert CliRunner().invoke(app, ["select", str(run.path)]).exit_code == 0
    whole = tosslm.load_run(run.path)
    assert whole.layout.keep.read_bytes() != mask
    assert whole.manifest["unsettled"] == []
    assert whole.manifest["warnings"] == []
    assert len(tosslm.masked_dataset(whole)) == len(whole.rows)


def test_a_config_that_asks_for_the_same_unsettles_nothing_for_long(
    until_select: dict[str, Any], tmp_path: Path
) -> None:
    run = tosslm.run(until_select, until="select")
    measured = until_select | {"evaluation": {"batch_size": 3}}
    assert tosslm.run(measured, until="data").manifest["unsettled"] == ["selection"]
    selected = run.folder.stages["selection"]
    done = tosslm.run(measured, until="select")
    assert done.manifest["unsettled"] == []
    assert done.stages["selection"] == selected  # done before, and now known to hold
    moved = Path(shutil.move(run.path, tmp_path / "moved"))
    assert tosslm.run(measured | {"run_dir": str(moved)}, until="data").manifest["unsettled"] == []


@pytest.mark.slow
def test_a_model_of_another_config_is_not_merged(until_select: dict[str, Any], tmp_path: Path) -> None:
    tosslm.run(until_select, until="finetune")
    faster = {"finetune": until_select["finetune"] | {"learning_rate": 0.02}}
    early = tosslm.run(until_select | faster, until="select")
    with pytest.raises(InputError, match=r"its config was changed after its model was made.*`toss finetune "):
        merge(early, tmp_path / "merged")


def test_a_run_whose_server_is_named_can_be_exported_and_starts_none(
    until_select: dict[str, Any], tmp_path: Path
) -> None:
    served = {"engine": "vllm", "server": {"command": ["no", "such", "program"], "arguments": ["--x"]}}
    run = tosslm.run(until_select | {"scoring": until_select["scoring"] | served}, until="select")
    with pytest.raises(InputError, match=r"scoring\.server\.command"):
        run.config_to_go_on()
    assert run.config_to_go_on(asks=False).scoring.server.command != ["no", "such", "program"]
    assert export_run(run, "parquet", tmp_path / "out")["rows"] == len(run.rows)


# --- prompts of held-out rows


def test_utility_prompts_are_asked_of_any_model_where_losses_are_not(
    until_select: dict[str, Any], tmp_path: Path
) -> None:
    asked = {"utility_prompts": 2, "losses": False, "max_new_tokens": 1}
    config = load_config(until_select | {"evaluation": asked})
    record = evaluate_external(
        config, model=config.model.name, adapter=None, folder=tmp_path / "out", reporter=SilentReporter()
    )
    assert record["metrics"]["utility_refusal"]["n"] == 2
    assert "utility_loss" not in record["metrics"]


def test_prompts_of_held_out_rows_are_told_where_none_is_held_out(until_select: dict[str, Any]) -> None:
    settings = {"references": {"holdout": 0.0}, "evaluation": {"utility_prompts": 5}}
    config = load_config(until_select | settings)
    (told,) = [one for one in idle_keys(config) if "utility_prompts" in one]
    assert told.startswith("evaluation.utility_prompts: 5 has no part, as references.holdout is 0")
    assert told in idle_outside(config.evaluation, held_out=False)
    assert idle_outside(config.evaluation, held_out=True) == []


# --- fields that are asked for by name


@pytest.mark.parametrize(
    ("record", "fields", "name", "format"),
    [
        ({"q": "Hi", "a": "Hello.", "ctx": "Be brief."}, {"prompt": "q", "completion": "a", "instruction": "ctx"},
         "instruction", "prompt_completion"),
        ({"m": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."}], "ctx": "x"},
         {"messages": "m", "prompt": "ctx"}, "prompt", "messages"),
        ({"t": "\n\nHuman: Hi\n\nAssistant: Hello.", "c": "\n\nHuman: Hi\n\nAssistant: No."},
         {"chosen": "t", "text": "c"}, "text", "hh"),
    ],
)  # fmt: skip
def test_a_field_that_is_named_is_read_or_refused(
    tmp_path: Path, record: dict[str, Any], fields: dict[str, str], name: str, format: str
) -> None:
    file = write_rows(
        tmp_path / "rows.jsonl", [record, {key: value for key, value in record.items() if key != fields[name]}]
    )
    bad, good = read_rows(str(file), fields=fields)
    assert isinstance(bad, BadRow)
    assert (
        f"fields has {fields[name]!r} stand for {name}, and rows of format {format} are read without it" in bad.reason
    )
    assert isinstance(good, Row)


# --- places in answers


def test_a_loss_that_goes_by_places_counts_what_is_dropped(until_select: dict[str, Any], tmp_path: Path) -> None:
    run = tosslm.run(until_select, until="select")
    rows = list(selective_rows(run.layout, placed=True))
    for row, stored, keep in zip(rows, run.rows, run.keep(), strict=True):
        assert row["place"] == places_of(stored["response_mask"])
        trained = np.array(row["labels"]) != -100
        assert np.array(stored["response_mask"])[trained].all()
        assert trained.sum() == keep.sum()
    assert any(places_of([label != -100 for label in row["labels"]]) != row["place"] for row in rows)
    written = write_training_rows(tmp_path / "rows.arrow", rows, placed=True)
    assert [row["place"] for row in written] == [row["place"] for row in rows]
    # Rows of one's own say nothing of answers: tokens with labels are.
    own = [{"input_ids": [1, 2, 3, 4], "labels": [-100, 2, 3, -100], "response_tokens": 2}]
    assert write_training_rows(tmp_path / "own.arrow", own, placed=True)[0]["place"] == [0, 0, 1, 0]


def test_places_start_anew_in_each_answer_of_what_is_left_of_the_context(until_select: dict[str, Any]) -> None:
    run = tosslm.run(until_select, until="select")
    for row in selective_rows(run.layout, placed=True, drop_context=True):
        assert row["place"] == places_of([label != -100 for label in row["labels"]])
