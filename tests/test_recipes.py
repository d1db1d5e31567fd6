"""The recipes plan as they stand, on files with exactly the columns that the hub's sets have; and names of fields."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from typer.testing import CliRunner

from conftest import write_rows
from test_config import SETS
from tosslm.cli import app
from tosslm.config import EvaluationConfig, load_config
from tosslm.data.rows import BadRow, Row, read_rows
from tosslm.errors import InputError
from tosslm.evaluation.checks import check_evaluation
from tosslm.plan import make_plan
from tosslm.progress import SilentReporter

RECIPES = Path(__file__).parents[1] / "recipes"
RED_TEAM = "hf://datasets/Anthropic/hh-rlhf/red-team-attempts/red_team_attempts.jsonl.gz"
HARMS = ("animal_abuse", "child_abuse", "controversial_topics,_politics", "self_harm", "violence,aiding_and_abetting")


def red_team(number: int, rating: float, last: str = "\n\nAssistant: Answer {}.") -> dict[str, Any]:
    return {
        "min_harmlessness_score_transcript": -1.5,
        "num_params": "52B",
        "model_type": "context-distilled",
        "rating": rating,
        "task_description": "I asked for it.",
        "task_description_harmlessness_score": 0.25,
        "red_team_member_id": number,
        "is_upworker": False,
        "tags": None if number % 2 else ["Theft"],
        "transcript": f"\n\nHuman: Question {number}?\n\nAssistant: No.\n\nHuman: Please!" + last.format(number),
    }


def safer(number: int, first_safe: bool) -> dict[str, Any]:
    found: dict[str, Any] = {"prompt": f"Question {number}?", "prompt_source": "made"}
    for which, is_safe in enumerate((first_safe, True)):
        found |= {
            f"response_{which}": f"Answer {which} to {number}.",
            f"response_{which}_source": "Alpaca-7B",
            f"is_response_{which}_safe": is_safe,
            f"response_{which}_harm_category": dict.fromkeys(("Cybercrime", "Drugs"), not is_safe),
            f"response_{which}_severity_level": 0 if is_safe else 3,
            f"response_{which}_sha256": "0" * 64,
        }
    return found | {"better_response_id": 0, "safer_response_id": 1}


def orca(number: int) -> dict[str, Any]:
    turns = (("system", "Be brief.", None), ("human", f"Question {number}?", 0.0), ("gpt", f"Answer {number}.", 1.0))
    return {"conversations": [{"from": who, "value": text, "weight": weight} for who, text, weight in turns]}


def own(number: int) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": f"{number}?"}, {"role": "assistant", "content": f"{number}!"}]}


HUB: dict[str, tuple[list[dict[str, Any]], list[str]]] = {
    RED_TEAM: (
        [red_team(1, 4.0), red_team(2, 0.0), red_team(3, 4.0), red_team(4, 4.0, "")],
        ["Answer 1.", "Answer 3."],  # of the fourth the last turn is the human's
    ),
    "PKU-Alignment/BeaverTails": (
        [
            {
                "prompt": f"Question {n}?",
                "response": f"Answer {n}.",
                "category": dict.fromkeys(HARMS, n % 2 == 1),
                "is_safe": n % 2 == 0,
            }
            for n in range(4)
        ],
        ["Answer 1.", "Answer 3."],
    ),
    "PKU-Alignment/PKU-SafeRLHF": ([safer(1, False), safer(2, True)], ["Answer 0 to 1."]),
    "Open-Orca/SlimOrca": ([orca(1), orca(2)], ["Answer 1.", "Answer 2."]),
    "databricks/databricks-dolly-15k": (
        [
            {"instruction": f"Do {n}.", "context": "With care." * n, "response": f"Did {n}.", "category": "open_qa"}
            for n in range(2)
        ],
        ["Did 0.", "Did 1."],
    ),
    "hf://datasets/openai/gsm8k/main/train-00000-of-00001.parquet": (
        [{"question": "2 + 2?", "answer": "It is <<2+2=4>>4.\n#### 4"}],
        ["It is <<2+2=4>>4.\n#### 4"],
    ),
    **{
        f"data/{name}.jsonl": ([own(1), own(2)], ["1!", "2!"])
        for name in ("custom", "paper/custom", "paper/harmful", "paper/utility")
    },
}
"""By the path that a recipe names: records as the hub has them, and the answers that are to be read of them."""


def as_on_the_hub(folder: Path, path: str) -> Path:
    """The records of a set in a file of its kind, here."""
    records = HUB[path][0]
    file = folder / re.sub(r"\W+", "-", path)
    if path.endswith(".parquet"):
        pq.write_table(pa.Table.from_pylist(records), file.with_suffix(".parquet"))
        return file.with_suffix(".parquet")
    return write_rows(file.with_suffix(".jsonl"), records)


@pytest.mark.long
@pytest.mark.parametrize("recipe", sorted(RECIPES.glob("*.yaml")), ids=lambda path: path.stem)
def test_a_recipe_plans(recipe: Path, tmp_path: Path, tiny_model_folder: Path) -> None:
    config = load_config(recipe)
    changes = [f"model.name={tiny_model_folder}", f"run_dir={tmp_path / 'run'}"]
    expected = {}
    for name in ("custom", "harmful", "utility"):
        path = getattr(config.data, name).path
        # The stand-in is one file, which holds the rows of the split that the recipe names.
        changes += [f"data.{name}.path={as_on_the_hub(tmp_path, path)}", f"data.{name}.split=null"]
        expected[name] = len(HUB[path][1])
        source = getattr(load_config(recipe, changes).data, name)
        rows = read_rows(
            source.path, format=source.format, fields=source.fields, where=source.where, limit=source.limit
        )
        assert [row.messages[-1]["content"] for row in rows if isinstance(row, Row)] == HUB[path][1]
    changes += ["selection.evidence=token", "selection.discard_fraction=0.1"]  # so few rows are no ground for more
    options = [option for change in changes for option in ("--set", change)]
    done = CliRunner().invoke(app, ["plan", str(recipe), *options, "--json"])
    assert done.exit_code == 0, done.output
    planned = json.loads(done.output)
    assert {name: counts["rows"] for name, counts in planned["sets"].items()} == expected
    assert len(planned["bad_rows"]) == (recipe.stem == "red-team")


def test_recipes_say_their_licences_and_stand_in_the_list() -> None:
    page = (RECIPES / "README.md").read_text()
    for recipe in RECIPES.glob("*.yaml"):
        assert f"`{recipe.name}`" in page
        text = recipe.read_text()
        hub = {source["path"] for source in yaml.safe_load(text)["data"].values() if isinstance(source, dict)} & {
            path for path in HUB if not path.startswith("data/")
        }
        assert text.count("Licence: ") == len(hub) or "License, to be accepted" in text


def test_the_papers_settings() -> None:
    """As docs/method.md has them."""
    for recipe in RECIPES.glob("paper-*.yaml"):
        config = load_config(recipe)
        for training in (config.references, config.finetune):
            assert (training.learning_rate, training.lr_scheduler, training.epochs) == (1e-5, "constant", 2)
            assert (training.batch_size, training.betas) == (64, (0.9, 0.95))
            assert (training.lora.r, training.lora.target_modules) == (16, ["q_proj", "v_proj"])
        assert (config.data.max_length, config.model.dtype) == (2048, "bfloat16")
        assert (config.selection.discard_fraction, config.method) == (0.1, "toss-pro")


@pytest.mark.slow
def test_sets_of_the_papers_size_are_drawn_apart(tmp_path: Path) -> None:
    red = write_rows(
        tmp_path / "red.jsonl", [red_team(n, 4.0, "" if n == 5 else "\n\nAssistant: a") for n in range(9)]
    )
    slim = write_rows(tmp_path / "slim.jsonl", [orca(n % 10) for n in range(20)])  # each one twice
    command = [sys.executable, str(RECIPES / "paper_sets.py"), "--red-team", str(red), "--slim-orca", str(slim)]
    told = subprocess.run(
        [*command, "--rows", "3", "6", "4", "--out", str(tmp_path / "out")],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert "red-team: 8 conversations; 1 rows left out" in told
    sets = {
        name: [json.loads(line) for line in (tmp_path / f"out/{name}.jsonl").read_text().splitlines()]
        for name in ("custom", "harmful", "utility")
    }
    sources = {name: sorted(row["source"] for row in rows) for name, rows in sets.items()}
    assert sources["custom"] == ["red-team"] * 3 + ["slim-orca"] * 6
    assert sources["harmful"] == ["red-team"] * 4
    assert sources["utility"] == ["slim-orca"] * 4
    texts = [json.dumps(row["messages"]) for rows in sets.values() for row in rows]
    assert len(set(texts)) == len(texts) == 17


# --- fields, where, limit


def rows_of(path: Path, **settings: Any) -> list[Row | BadRow]:
    return list(read_rows(str(path), **settings))


def test_fields_are_found_by_the_names_that_the_data_have(tmp_path: Path) -> None:
    file = write_rows(tmp_path / "a.jsonl", [{"prompt": "Hi", "response": "Hello."}])
    [bad] = rows_of(file)
    assert isinstance(bad, BadRow)
    [row] = rows_of(file, fields={"completion": "response"})
    assert isinstance(row, Row)
    plain = write_rows(tmp_path / "b.jsonl", [{"prompt": "Hi", "completion": "Hello."}])
    [same] = rows_of(plain)
    assert isinstance(same, Row)
    assert row.row_id == same.row_id  # an id is of the content, whatever its fields are called


def test_a_field_that_stands_twice_is_a_bad_row_and_one_that_is_missing_is_missed(tmp_path: Path) -> None:
    records = [{"prompt": "Hi", "completion": "a", "response": "b"}, {"prompt": "Hi", "answer": "b"}]
    twice, missing = rows_of(write_rows(tmp_path / "a.jsonl", records), fields={"completion": "response"})
    assert isinstance(twice, BadRow)
    assert "'completion' stands there beside 'response'" in twice.reason
    assert isinstance(missing, BadRow)
    assert "the fields fit no format" in missing.reason


def test_records_are_taken_by_their_values(tmp_path: Path) -> None:
    records = [{"prompt": f"{n}", "completion": "a", "good": n % 2 == 0, "level": n} for n in range(6)]
    file = write_rows(tmp_path / "a.jsonl", [*records, {"prompt": "x", "completion": "a"}])
    taken = rows_of(file, where={"good": True})
    assert [row.messages[0]["content"] for row in taken if isinstance(row, Row)] == ["0", "2", "4"]
    assert isinstance(taken[-1], BadRow)
    assert "'good', by which rows are taken, is missing" in taken[-1].reason
    assert [row.origin for row in rows_of(file, where={"good": True}, limit=2)] == [f"{file}:1", f"{file}:3"]


def test_values_that_no_record_has_are_told_beside_those_that_are_there(tmp_path: Path) -> None:
    """Text is told from what it says: `"false"` is not `false`."""
    records = [{"prompt": f"{n}", "completion": "a", "good": "false", "level": n} for n in range(6)]
    file = write_rows(tmp_path / "a.jsonl", records)
    with pytest.raises(InputError, match="takes none of the 6 rows") as refused:
        list(read_rows(str(file), where={"good": False}, key="data.custom"))
    assert "data.custom.where: good: false takes none of the 6 rows of" in str(refused.value)
    assert 'such as good: "false"' in str(refused.value)
    settings = [f"data.{name}.path={file}" for name in SETS["data"]] + ["data.custom.where={level: 9}"]
    with pytest.raises(InputError, match=r"data\.custom\.where: level: 9 takes none of the 6 rows"):
        make_plan(load_config(SETS, settings), measure=False, reporter=SilentReporter())
    rows = EvaluationConfig.model_validate({"harmful_rows": {"path": str(file), "where": {"level": 9}}})
    with pytest.raises(InputError, match=r"evaluation\.harmful_rows: where: level: 9 takes none of the 6"):
        check_evaluation(rows)


def test_a_field_that_no_record_has_cannot_stand_for_another(tmp_path: Path) -> None:
    chat = {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."}]}
    file = write_rows(tmp_path / "a.jsonl", [chat])
    says = r"data\.custom\.fields: no row .* has a field 'q' to stand for prompt; fields found: 'messages'"
    with pytest.raises(InputError, match=says):
        list(read_rows(str(file), fields={"prompt": "q"}, limit=1, key="data.custom"))
    # One set may hold files of several formats: one row that has it is enough.
    other = write_rows(tmp_path / "b.jsonl", [{"q": "Hi", "completion": "Hello."}])
    rows = list(read_rows([str(file), str(other)], fields={"prompt": "q"}))
    assert all(isinstance(row, Row) for row in rows)


def test_keys_without_a_part_leave_a_config_as_it_was() -> None:
    """So that fingerprints of older folders, which cover the section, stay the same."""
    plain = load_config(SETS).data.custom.model_dump()
    assert set(plain) == {"path", "format", "field", "split"}
    own = load_config(SETS, ["data.custom.fields={text: transcript}", "data.custom.limit=3"])
    assert own.data.custom.model_dump() == plain | {"fields": {"text": "transcript"}, "limit": 3}
    assert load_config(own.model_dump(mode="json")) == own
    for changes, message in (
        (["data.custom.fields={prompt: a, completion: a}"], "stands for two of the format's"),
        (["data.custom.fields={text: a}", "data.custom.field=b"], "field and fields both name"),
    ):
        with pytest.raises(InputError, match=message):
            load_config(SETS, changes)
