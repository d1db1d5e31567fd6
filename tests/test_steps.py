"""Steps and methods as values: what each is known by, and that old run folders are not redone by accident."""

from __future__ import annotations

import importlib
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import yaml
from typer import Typer
from typer.testing import CliRunner

import tosslm
from tosslm import pipeline
from tosslm.cli import app
from tosslm.commands import running
from tosslm.config import Config, load_config
from tosslm.errors import InputError
from tosslm.files import fingerprint
from tosslm.methods import registry, settled, with_values
from tosslm.pipeline import STAGES, steps, upto
from tosslm.progress import SilentReporter
from tosslm.runs.folder import RunFolder
from tosslm.runs.recorded import Mark
from tosslm.stages.purposes import PURPOSES
from tosslm.stages.step import Facts, Stage, Step
from tosslm.workbench import Workbench

GOLDEN: dict[str, dict[str, str]] = json.loads(
    (Path(__file__).parent / "golden" / "fingerprints.json").read_text(encoding="utf-8")
)
"""Fingerprints that version 0.1.0 gave this config, by method; "" is a run that names none.

Of the anchored methods ``model`` and ``evaluation/model`` are newer: 0.1.0 anchored only the first answer of a
conversation, so what it trained is to be done again. Of ``star-dss`` all but ``data`` is newer: it is another method.
Scores, and all that reads them, are newer too: losses are computed otherwise, and may differ in their last digits.
So are trained adapters: rows of like length go together in a forward pass. And the diagnosis: positions are those in
an answer, and of several answers the last is weighed. And evaluations, whose phrases of refusals are told more
narrowly. Of ``dsir`` the selection is newer, which did not say which rows were held out; of ``constrained-sft`` the
model, whose loss took a token's place among kept ones for that in its answer. Of a run ``evaluation/model`` is newer,
which is a comparison's to the fingerprint now; ``evaluation/results``, once written with it, is a step of its own.
"""
CONFIG = {
    "run_dir": "run",
    "seed": 7,
    "model": {"name": "base"},
    "data": {name: {"path": f"{name}.jsonl"} for name in ("custom", "harmful", "utility")},
    "refinement": {"rounds": 2},
    "evaluation": {"harmful": {"path": "prompts.jsonl"}},
    "compare": {"harmful_sources": ["harm"], "safety": {"path": "safety.jsonl"}, "guard": {"model": "guard"}},
}

PAPER = {
    "selection": {"discard_fraction": 0.1, "evidence": "token"},
    "finetune": {"dropped": "ignore", "anchor_weight": 1.0, "anchor_first": 3, "anchor_normalize": "anchored"},
}
"""Defaults of version 0.1.0 that are others now."""


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    monkeypatch.chdir(tmp_path)
    for name in ("custom", "harmful", "utility", "safety", "prompts"):
        Path(f"{name}.jsonl").write_text(f'{{"set": "{name}"}}\n')
    Path("guard").mkdir()
    Path("guard/config.json").write_text("{}")
    return load_config(CONFIG | PAPER)


def fingerprints(config: Config) -> dict[str, str]:
    """Of all steps of a config, each taken for done with no files once its own is known."""
    config, method = settled(config)
    folder = RunFolder("run")
    base: Any = SimpleNamespace(identity="f" * 16, answering=[])
    tokenizer: Any = SimpleNamespace(chat_template="")
    bench = Workbench(config, folder, base, tokenizer, SilentReporter())
    for step in upto(steps(config, method), "diagnose"):
        folder.stages[step.name] = {"fingerprint": step.mark(bench).fingerprint, "files": {}}
    return {name: entry["fingerprint"] for name, entry in folder.stages.items()}


def of_comparison(config: Config, name: str) -> Config:
    """What `toss compare` writes into a method's run folder."""
    values = {**registry()[name].overrides(config), "method": name, "compare.part_of": "../.."}
    return with_values(config, values)


def test_a_run_of_an_older_version_is_found_done(config: Config) -> None:
    assert fingerprints(config) == GOLDEN[""]


@pytest.mark.parametrize("name", [name for name in GOLDEN if name])
def test_a_compared_method_of_an_older_version_is_found_done(config: Config, name: str) -> None:
    found = fingerprints(of_comparison(config, name))
    found.pop("diagnosis", None)  # a comparison did none
    assert found == GOLDEN[name]


def test_a_fingerprint_covers_version_parts_and_what_was_read() -> None:
    folder = RunFolder("nowhere")
    folder.stages["data"] = {"fingerprint": "a", "files": {"data/custom.parquet": "b"}}
    mark = folder.mark("selection", 3, [{"d": 0.1}, 7], ["data"], ("selection",))
    assert mark.fingerprint == fingerprint(3, {"d": 0.1}, 7, {"data": fingerprint("a", {"data/custom.parquet": "b"})})


@pytest.mark.parametrize("name", [None, *(name for name in GOLDEN if name)])
def test_steps_stand_in_the_order_of_the_stages_and_read_what_stands_before_them(
    config: Config, name: str | None
) -> None:
    own, method = settled(of_comparison(config, name) if name else config)
    found = steps(own, method)
    order = [list(STAGES).index(step.stage) for step in found]
    assert order == sorted(order)
    for number, step in enumerate(found):
        assert set(step.reads) <= {earlier.name for earlier in found[:number]}
    assert len({step.name for step in found}) == len(found)


def test_the_command_line_has_the_stages_in_their_order() -> None:
    assert list(PURPOSES) == list(STAGES)


def tally() -> Stage:
    """A stage as somebody may add it: how many rows the custom set has, in a file."""

    def work(bench: Workbench, mark: Mark) -> Facts:
        rows = bench.folder.stages["data"]["sets"]["custom"]["rows"]
        bench.layout.of("tally.txt").write_text(str(rows))
        return {"rows": rows}

    step = Step("tally", "tally", 1, ("data",), work, writes=("tally.txt",))
    return Stage("tally", ("tally.txt",), lambda *_: [step])


def with_tally() -> dict[str, Stage]:
    return {"data": STAGES["data"], "tally": tally(), **STAGES}


def test_a_stage_is_added_by_one_entry(tiny_config: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "STAGES", with_tally())
    run_dir = Path(tiny_config["run_dir"])
    manifest = tosslm.run(tiny_config, until="tally").manifest
    assert list(manifest["stages"]) == ["data", "tally"]
    assert int((run_dir / "tally.txt").read_text()) == manifest["stages"]["data"]["sets"]["custom"]["rows"] > 0
    stranger = run_dir.parent / "stranger"
    stranger.mkdir()
    (stranger / "tally.txt").write_text("somebody else's")
    with pytest.raises(InputError, match=r"is no run folder .* holds tally\.txt"):
        tosslm.run(tiny_config | {"run_dir": str(stranger)}, until="tally")


def test_a_stage_is_its_file_and_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    before = list(STAGES)
    file = ModuleType("tosslm.stages.tally")
    vars(file)["STAGE"] = tally()
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, file.__name__, file)
        patch.setitem(PURPOSES, "tally", "Count the rows.")
        assert list(importlib.reload(pipeline).STAGES) == [*before, "tally"]
    assert list(importlib.reload(pipeline).STAGES) == before


@pytest.fixture
def app_with_tally(monkeypatch: pytest.MonkeyPatch) -> Iterator[Typer]:
    monkeypatch.setattr(pipeline, "STAGES", with_tally())
    monkeypatch.setitem(PURPOSES, "tally", "Count the rows.")
    before = list(app.registered_commands)
    importlib.reload(running)
    yield app
    app.registered_commands[:] = before


def test_a_stage_is_a_command(tiny_config: dict[str, Any], app_with_tally: Typer, tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(tiny_config))
    assert re.search(r"tally\s+Count the rows\.", CliRunner().invoke(app_with_tally, ["--help"]).output)
    done = CliRunner().invoke(app_with_tally, ["tally", str(file)])
    assert done.exit_code == 0, done.output
    assert (Path(tiny_config["run_dir"]) / "tally.txt").is_file()


def test_a_method_that_needs_no_scores_trains_no_references(config: Config) -> None:
    own, method = settled(of_comparison(config, "sft"))
    names = [step.name for step in steps(own, method)]
    assert names == [*("data", "selection", "model", "evaluation/model", "evaluation/results", "diagnosis", "report")]


def test_the_base_is_measured_and_nothing_else(config: Config) -> None:
    own, method = settled(of_comparison(config, "base"))
    assert [step.name for step in steps(own, method)] == ["data", "evaluation/base", "evaluation/results"]


def test_a_method_sets_its_keys_and_settling_twice_changes_nothing(config: Config) -> None:
    pro = load_config(CONFIG | {"refinement": {}, "method": "toss-pro-posterior-anchor"})
    own, method = settled(pro)
    assert method is registry()["toss-pro-posterior-anchor"]
    assert (own.selection.evidence, own.finetune.dropped, own.refinement.rounds) == ("posterior", "anchor", 1)
    assert settled(own)[0] == own


def test_a_key_that_says_otherwise_than_the_method_is_refused(config: Config) -> None:
    said = load_config(CONFIG | {"method": "toss", "selection": {"evidence": "posterior"}, "refinement": {}})
    with pytest.raises(InputError, match=r"selection\.evidence: method toss sets \"token\", the config says"):
        settled(said)


def test_a_method_that_nobody_knows_is_refused(config: Config) -> None:
    with pytest.raises(InputError, match=r"method: 'tos' is unknown; known: base, sft"):
        settled(load_config(CONFIG | {"method": "tos"}))


def test_what_a_method_needs_is_asked_at_the_door() -> None:
    bare = {key: value for key, value in CONFIG.items() if key != "compare"}
    for name, key in (("oracle", "harmful_sources"), ("seal", "safety.path"), ("star-dss", "guard")):
        with pytest.raises(InputError, match=rf"{name}: name .*compare\.{key}"):
            settled(load_config(bare | {"method": name, "refinement": {}}))
