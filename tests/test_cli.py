"""What a user types and sees."""

from __future__ import annotations

import html
import io
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from rich.console import Console
from transformers import AutoTokenizer
from typer.testing import CliRunner, Result

import tosslm
from conftest import demo_rows, write_rows
from support.made_run import answers, made_run, with_own_choice
from tosslm.cli import app
from tosslm.findings.rows import riskiest_rows, row_record
from tosslm.findings.sentence import Sentence, Strong
from tosslm.findings.summary import summarize
from tosslm.terminal.rows import render_riskiest, render_row
from tosslm.terminal.summary import print_summary
from tosslm.terminal.tables import told
from tosslm.text import mask_hidden


def toss(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


@pytest.fixture
def config_file(tiny_config: dict[str, Any], tmp_path: Path) -> Path:
    path = tmp_path / "toss.yaml"
    path.write_text(yaml.safe_dump(tiny_config))
    return path


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory, tiny_model_folder: Path) -> Path:
    """A selection over demo rows with chosen scores: nothing of it depends on chance."""
    folder = tmp_path_factory.mktemp("cli")
    for name in ("custom", "harmful", "utility"):
        lines = [json.dumps(row, ensure_ascii=False) for row in demo_rows(name, 8)]
        (folder / f"{name}.jsonl").write_text("\n".join(lines), encoding="utf-8")
    training = {"learning_rate": 0.01, "epochs": 1, "batch_size": 8}
    tosslm.run(
        {
            "run_dir": str(folder / "run"),
            "model": {"name": str(tiny_model_folder), "dtype": "float32", "device": "cpu"},
            "data": {name: {"path": str(folder / f"{name}.jsonl")} for name in ("custom", "harmful", "utility")},
            "references": training,
            "selection": {"evidence": "token", "discard_fraction": 0.1},
            "finetune": training,
        },
        until="select",
    )
    return folder / "run"


def test_init_writes_a_config_once(tmp_path: Path) -> None:
    assert toss("init", str(tmp_path)).exit_code == 0
    assert "discard_fraction" in (tmp_path / "toss.yaml").read_text()
    again = toss("init", str(tmp_path))
    assert again.exit_code == 2
    assert "exists already" in again.stderr


def test_a_file_where_a_folder_is_needed_is_named(
    config_file: Path, run_dir: Path, tiny_adapter_folder: Path, tmp_path: Path
) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("mine")
    rows = write_rows(tmp_path / "rows.jsonl", [{"input_ids": [1, 2]}])
    for command in (
        ["init", str(file)],
        ["init", str(file / "there")],
        ["run", str(config_file), "--run-dir", str(file)],
        ["evaluate", str(config_file), "--adapter", str(tiny_adapter_folder), "--out", str(file)],
        ["inspect", str(rows), "--html", str(file / "page.html")],
        ["export", str(run_dir), str(file / "out")],
    ):
        result = toss(*command)
        assert result.exit_code == 2, result.output
        assert f"{file}: is a file, and a folder is needed there" in " ".join(result.stderr.split()), command
    assert file.read_text() == "mine"


def test_plan_counts_the_data_and_loads_no_weights(config_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tosslm.model.base.load_model", lambda base: pytest.fail("weights were loaded"))
    result = toss("plan", str(config_file), "--json")
    assert result.exit_code == 0, result.stderr
    plan = json.loads(result.stdout)
    assert plan["sets"]["custom"]["rows"] == 24
    assert plan["model"]["parameters"] == 49152 * 32 + 2 * (2 * 32 * 32 + 2 * 32 * 16 + 3 * 32 * 64 + 64) + 32
    tokens = {stage["stage"]: (stage["tokens_read"], stage["tokens_trained"]) for stage in plan["stages"]}
    assert tokens["finetune"] == (0, 2 * plan["sets"]["custom"]["tokens"])
    assert tokens["score"][0] > 2 * plan["sets"]["custom"]["tokens"]
    assert all(stage["seconds"] > 0 for stage in plan["stages"] if stage["tokens_read"] or stage["tokens_trained"])


def test_rows_that_the_template_rewrites_are_told_by_plan_run_and_report(
    tiny_config: dict[str, Any], tmp_path: Path, tiny_model_folder: Path
) -> None:
    model = tmp_path / "stripping"
    shutil.copytree(tiny_model_folder, model)
    tokenizer = AutoTokenizer.from_pretrained(model)
    tokenizer.chat_template = tokenizer.chat_template.replace(
        "message['content']", "message['content'].split('</think>')[-1]"
    )
    tokenizer.save_pretrained(model)
    with (tmp_path / "custom.jsonl").open("a") as file:
        file.write('{"prompt": "Hi", "completion": "<think>Hm.</think>Hello."}\n')
    path = tmp_path / "e.yaml"
    path.write_text(yaml.safe_dump(tiny_config | {"model": {**tiny_config["model"], "name": str(model)}}))
    told = "1 of 25 custom rows have a turn of which the chat template drops or rewrites text"

    planned = toss("plan", str(path))
    assert planned.exit_code == 0, planned.stderr
    assert told in planned.stdout
    assert "custom.jsonl:25" in planned.stdout
    assert json.loads(toss("plan", str(path), "--json").stdout)["sets"]["custom"]["rewritten"] == 1
    run = toss("run", str(path), "--until", "data", "--json")
    assert run.exit_code == 0, run.stderr
    summary = json.loads(run.stdout)
    assert summary["sets"]["custom"]["rewritten"] == 1
    assert any(told in warning for warning in summary["warnings"])


def test_plan_counts_what_an_evaluation_reads_and_writes(tiny_config: dict[str, Any], tmp_path: Path) -> None:
    """Two prompts of words of their own, answered by two models; two rows, and their margins against one refusal."""
    rows = [{"prompt": "a b", "completion": "c d"}] * 2
    write_rows(tmp_path / "rows.jsonl", rows)
    write_rows(tmp_path / "prompts.jsonl", [{"prompt": "one"}, {"prompt": "two words"}])
    own = {"path": str(tmp_path / "rows.jsonl")}
    evaluation: dict[str, Any] = {
        "harmful": {"path": str(tmp_path / "prompts.jsonl")},
        "harmful_rows": own,
        "utility_rows": own,
    }
    evaluation |= {"max_new_tokens": 7, "refusals": ["No."]}
    path = tmp_path / "e.yaml"
    path.write_text(yaml.safe_dump(tiny_config | {"evaluation": evaluation}))

    result = toss("plan", str(path), "--json")
    assert result.exit_code == 0, result.stderr
    tokens = {stage["stage"]: stage["tokens_read"] for stage in json.loads(result.stdout)["stages"]}
    tokenizer = AutoTokenizer.from_pretrained(tiny_config["model"]["name"])

    def length(*turns: dict[str, str], asks: bool = False) -> int:
        return len(tokenizer.apply_chat_template(list(turns), add_generation_prompt=asks, return_dict=False))

    asked = [length({"role": "user", "content": text}, asks=True) for text in ("one", "two words")]
    row = length({"role": "user", "content": "a b"}, {"role": "assistant", "content": "c d"})
    assert tokens["evaluate"] == pytest.approx(2 * (sum(asked) + 2 * 7 + 2 * row + 2 * row * 3), abs=20)


@pytest.mark.long
def test_plan_measures_when_asked(config_file: Path) -> None:
    result = toss("plan", str(config_file), "--measure")
    assert result.exit_code == 0, result.stderr
    assert "measured on a few layers" in re.sub(r"\s+", " ", result.stdout)


def test_bad_rows_are_listed_and_refused_or_skipped(config_file: Path, tmp_path: Path) -> None:
    with (tmp_path / "custom.jsonl").open("a") as file:
        file.write('{"messages": [\n{"messages": [{"role": "user", "content": "alone"}]}\n')
    refused = toss("run", str(config_file), "--until", "data")
    assert refused.exit_code == 2
    assert "custom.jsonl:25" in refused.stderr
    assert "Traceback" not in refused.output
    planned = toss("plan", str(config_file))
    assert planned.exit_code == 2
    assert "custom.jsonl:26" in planned.stdout
    skipped = toss("run", str(config_file), "--until", "data", "--set", "data.on_bad_row=skip")
    assert skipped.exit_code == 0, skipped.stderr
    listed = [json.loads(line) for line in (tmp_path / "run/data/bad_rows.jsonl").read_text().splitlines()]
    assert [row["origin"].rpartition(":")[2] for row in listed] == ["25", "26"]
    assert all(row["set"] == "custom" and row["reason"] and row["remedy"] for row in listed)


def test_exit_statuses(config_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert toss("run", str(tmp_path / "none.yaml")).exit_code == 2
    assert toss("run", str(config_file), "--set", "selection.discard_fraction=1").exit_code == 2
    assert toss("run", str(config_file), "--until", "later").exit_code == 2
    assert toss("show", str(tmp_path)).exit_code == 2

    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("tosslm.pipeline.run", interrupted)
    assert toss("run", str(config_file)).exit_code == 130

    def failed(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError("oops")

    monkeypatch.setattr("tosslm.pipeline.run", failed)
    result = toss("run", str(config_file))
    assert result.exit_code == 1
    assert "ZeroDivisionError: oops (--debug shows where)" in result.stderr


@pytest.mark.long
def test_a_stage_does_what_earlier_stages_still_miss(config_file: Path, tmp_path: Path) -> None:
    result = toss("select", str(config_file), "--json")
    assert result.exit_code == 0, result.stderr
    summary = json.loads(result.stdout)
    assert summary["selection"]["discarded"] == int(0.2 * summary["selection"]["tokens"])
    assert "model" not in summary
    again = toss("select", str(tmp_path / "run"))
    assert again.exit_code == 0, again.stderr
    assert "references/utility: done before" in again.stderr
    assert "Threshold" in again.stdout


def test_verify_says_what_is_damaged(run_dir: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(run_dir, copy)
    assert "0 damaged" in toss("verify", str(copy)).stdout
    (copy / "selection/notes.bin").write_bytes(b"x")
    result = toss("verify", str(copy))
    assert result.exit_code == 0
    assert "selection/notes.bin: no step wrote it" in result.stdout
    assert "0 damaged, 1 of no step" in result.stdout
    assert json.loads(toss("verify", str(copy), "--json").stdout)["of_no_step"] == ["selection/notes.bin"]
    (copy / "selection/keep.parquet").write_bytes(b"")
    result = toss("verify", str(copy))
    assert result.exit_code == 1
    assert "keep.parquet: altered (selection)" in result.stdout


@pytest.mark.long
@pytest.mark.parametrize("file", ["data/custom", "selection/keep", "scores/round-0/part-00000"])
def test_one_flipped_bit_is_damage_or_changes_nothing(run_dir: Path, tmp_path: Path, file: str) -> None:
    """Nowhere in a table does a bit that flipped make another row of it."""
    copy = tmp_path / "copy"
    shutil.copytree(run_dir, copy)
    row_id = tosslm.load_run(run_dir).rows["row_id"][0]
    shown = toss("show", str(copy), row_id, "--json").stdout
    path = copy / f"{file}.parquet"
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    damaged = 0
    for place in rng.integers(len(whole), size=60):
        flipped = bytearray(whole)
        flipped[place] ^= 1 << rng.integers(8)
        path.write_bytes(flipped)
        result = toss("show", str(copy), row_id, "--json")
        if result.exit_code == 0:
            assert result.stdout == shown
        else:
            assert result.exit_code == 1
            assert "damaged" in result.stderr
            damaged += 1
    assert damaged > 10


def test_show_lists_the_riskiest_rows_first(run_dir: Path) -> None:
    rows = json.loads(toss("show", str(run_dir), "--json", "--count", "5").stdout)
    both = toss("show", str(run_dir), rows[0]["row_id"], "--count", "5")
    assert both.exit_code == 2
    assert "--count is of rows to list" in both.stderr
    shares = [row["dropped"] / row["tokens"] for row in rows]
    assert len(rows) == 5
    assert shares == sorted(shares, reverse=True)


def rendered(run_dir: Path, **settings: Any) -> str:
    run = tosslm.load_run(run_dir)
    row_id = next(
        row["row_id"]
        for row, keep in zip(run.rows, run.keep(), strict=True)
        if not keep.all() and row["unsafe_spans"]
    )
    settings.setdefault("_environ", {"TERM": "xterm-256color"})  # not the terminal that the tests happen to run in
    console = Console(file=io.StringIO(), **settings)
    console.print(render_row(row_record(run, row_id), 0.1, console))
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_show_strikes_dropped_tokens_and_underlines_marked_text(run_dir: Path) -> None:
    text = rendered(run_dir, force_terminal=True, color_system="truecolor", width=100)
    codes = [code.split(";") for code in re.findall(r"\x1b\[([\d;]*)m", text)]
    assert any("9" in code for code in codes)
    assert any("4" in code for code in codes)
    assert "48;2;" in text
    narrow = rendered(run_dir, force_terminal=True, width=40)
    assert max(len(re.sub(r"\x1b\[[\d;]*m", "", line)) for line in narrow.splitlines()) <= 40


def test_show_without_colours(run_dir: Path) -> None:
    piped = rendered(run_dir, width=100)
    assert "\x1b" not in piped
    assert "[-" in piped
    dumb = rendered(run_dir, force_terminal=True, width=100, _environ={"TERM": "dumb"})
    assert "\x1b" not in dumb
    assert "[-" in dumb
    no_color = rendered(run_dir, force_terminal=True, no_color=True, width=100)
    assert "48;2;" not in no_color
    assert "\x1b[9" in no_color or ";9" in no_color  # struck through all the same


def test_text_that_steers_a_terminal_is_shown_and_does_nothing() -> None:
    hostile = "a\x1b[31mred\x07\u202eevil\u2066\r\x9b2J"
    assert mask_hidden(hostile) == "a�[31mred��evil���2J".replace("��evil", "�\ufffdevil")
    assert len(mask_hidden(hostile)) == len(hostile)
    assert mask_hidden("tab\tline\nnaïve 👩‍🚀 שלום می‌خواهم") == "tab\tline\nnaïve 👩‍🚀 שלום می‌خواهم"
    unseen = "\u200b\u2060\ufeff\u00ad\u2028\u034f\u3164\U000e0041"
    assert mask_hidden(unseen) == "�" * len(unseen)


def test_tables_of_a_run_fit_a_narrow_terminal(run_dir: Path) -> None:
    run = tosslm.load_run(run_dir)
    summary = summarize(run)
    printed = io.StringIO()
    print_summary(summary, Console(width=40, file=printed))
    text = printed.getvalue()
    assert "…" not in text
    assert f"{summary['selection']['discarded']:,}" in text
    assert all(f"{counts['response_tokens']:,}" in text for counts in summary["sets"].values())


def test_unsafe_tokens_and_ranking_quality() -> None:
    from tosslm.characters import unsafe_tokens
    from tosslm.findings.spans import ranking_quality

    offsets = [[1, 0, 4], [1, 4, 9], [1, 9, 12], [-1, -1, -1], [3, 0, 5]]
    assert unsafe_tokens(offsets, [[1, 4, 10], [3, 0, 0]]).tolist() == [False, True, True, False, False]
    assert not unsafe_tokens([], []).size
    quality = ranking_quality(np.array([True, False, True, False]), np.array([3.0, 2.0, 1.0, 0.0]))
    assert quality["auroc"] == 0.75  # three of the four pairs are in order
    assert quality["average_precision"] == pytest.approx((1 + 2 / 3) / 2)


def test_a_narrow_terminal_gets_whole_row_ids(run_dir: Path) -> None:
    rows = riskiest_rows(tosslm.load_run(run_dir), 5)
    for width in (30, 48, 70, 120):
        printed = io.StringIO()
        console = Console(width=width, file=printed)
        console.print(render_riskiest(rows, width))
        lines = printed.getvalue().splitlines()
        assert all(any(row["row_id"] in line for line in lines) for row in rows)
        assert all(len(line) <= width for line in lines)
        assert not any("…" in line for line in lines) or width == 120


def test_before_a_selection_nothing_is_said_to_be_dropped(tiny_config: dict[str, Any], run_dir: Path) -> None:
    run = tosslm.run(tiny_config, until="data")
    listed = toss("show", str(run.path))
    assert "No selection yet, nor scores: the first rows." in listed.output
    assert "dropped" not in listed.output
    rows = json.loads(toss("show", str(run.path), "--json").stdout)
    assert {(row["dropped"], row["highest_score"]) for row in rows} == {(None, None)}
    shown = toss("show", str(run.path), rows[0]["row_id"])
    assert "response tokens; no selection yet; no scores" in shown.output
    scored = [row | {"dropped": None} for row in riskiest_rows(tosslm.load_run(run_dir))]
    printed = io.StringIO()
    Console(width=100, file=printed).print(render_riskiest(scored, 100))
    assert "No selection yet, rows with the highest score first." in printed.getvalue()


def test_no_color_shows_no_ramp_of_colours(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = tosslm.load_run(run_dir)
    record = row_record(run, run.rows["row_id"][0])
    monkeypatch.setenv("TERM", "xterm-256color")  # a dumb terminal shows no colours, whatever is asked of it
    shown = {}
    for value in ("", "1"):
        monkeypatch.setenv("NO_COLOR", value)
        printed = io.StringIO()
        console = Console(width=80, force_terminal=True, color_system="truecolor", file=printed)
        console.print(render_row(record, 0.5, console))
        shown[value] = printed.getvalue()
    assert "48;2;" in shown[""]
    assert "safe " in shown[""]
    assert not re.search(r"\[[0-9;]*[34]8;", shown["1"])
    assert "safe " not in shown["1"]
    assert "dropped" in shown["1"]


def test_a_method_without_scores_can_be_looked_at(tmp_path: Path) -> None:
    run = made_run(tmp_path / "run", answers(6))
    keep = [np.arange(len(row)) >= i for i, row in enumerate(run.scores())]
    run = with_own_choice(run, "first-k", keep, scored=False)
    rows = json.loads(toss("show", str(run.path), "--json").stdout)
    assert [row["dropped"] for row in rows] == [
        int((~keep[run.rows["row_id"].index(r["row_id"])]).sum()) for r in rows
    ]
    assert all(row["highest_score"] is None for row in rows)
    assert "highest" not in toss("show", str(run.path)).stdout
    record = json.loads(toss("show", str(run.path), run.rows["row_id"][3], "--json").stdout)
    assert [token["keep"] for token in record["tokens"]] == keep[3].tolist()
    assert {token[name] for token in record["tokens"] for name in ("score", "loss_utility", "loss_degraded")} == {
        None
    }
    assert [token["position"] for token in record["tokens"]] == list(range(1, len(keep[3]) + 1))
    shown = toss("show", str(run.path), run.rows["row_id"][3]).stdout
    assert "3 dropped" in shown
    assert "no scores" in shown
    assert "nats" not in shown


def test_numbers_of_a_sentence_are_bold_in_the_terminal() -> None:
    text = told("Safety", "bold", Sentence("Of ", Strong("9"), " rows."))
    assert text.plain == "Safety: Of 9 rows."
    assert [(text.plain[span.start : span.end], str(span.style)) for span in text.spans] == [
        ("Safety: ", "bold"),
        ("9", "bold"),
    ]


@pytest.mark.long
def test_warnings_are_the_same_everywhere(config_file: Path, tmp_path: Path) -> None:
    """In the manifest, for machines, in the terminal and on the page: here two rows that are one, cut short."""
    custom = tmp_path / "custom.jsonl"
    custom.write_text(custom.read_text() + custom.read_text().splitlines()[0] + "\n")
    result = toss("run", str(config_file), "--json", "--set", "data.max_length=64")
    assert result.exit_code == 0, result.stderr
    said = json.loads(result.stdout)["warnings"]
    assert any("repeat another one's content" in warning for warning in said)
    assert json.loads((tmp_path / "run/manifest.json").read_text())["warnings"] == said
    page = html.unescape((tmp_path / "run/report.html").read_text(encoding="utf-8"))
    (box,) = re.findall(r'<div class="warn">.*?</div>', page, re.DOTALL)
    assert re.findall("<li>(.*?)</li>", box) == said
    shown = toss("report", str(config_file), "--set", "data.max_length=64").stdout
    for warning in said:
        assert f"Warning: {warning}" in re.sub(r"\s+", " ", shown)


def test_a_plan_of_a_method_has_its_stages(config_file: Path) -> None:
    def planned(*settings: str) -> dict[str, int]:
        result = toss("plan", str(config_file), "--json", *settings)
        assert result.exit_code == 0, result.stderr
        return {stage["stage"]: stage["tokens_trained"] for stage in json.loads(result.stdout)["stages"]}

    assert planned()["references"] > 0
    bare = planned("--set", "method=first-k", "--set", "refinement.rounds=0")
    assert "references" not in bare
    assert "score" not in bare
    assert bare["finetune"] > 0
    assert "finetune" not in planned("--set", "method=base", "--set", "refinement.rounds=0")
