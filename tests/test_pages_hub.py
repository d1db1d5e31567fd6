"""The block of the pages that fetches sets, by bash as it stands, and recipes: a hub on this machine has them."""

from __future__ import annotations

import gzip
import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from conftest import write_rows
from support.page_shell import bash, beginning, marked
from support.pages import ROOT
from support.public_hub import PublicHub, public_hub
from test_recipes import HUB, RED_TEAM, own, red_team

pytestmark = pytest.mark.slow
MARKED = marked("test")
PLAN = beginning(MARKED, "recipes/README.md", "toss plan")
DOLLY = "databricks/databricks-dolly-15k"
BEAVERS, SAFER, ORCA = "PKU-Alignment/BeaverTails", "PKU-Alignment/PKU-SafeRLHF", "Open-Orca/SlimOrca"
GSM8K = "hf://datasets/openai/gsm8k/main/train-00000-of-00001.parquet"
ENOUGH = 240
"""Rows of a set, for a plan by the defaults; the other recipes are planned on few, by the token's own score."""
SPLITS = """\
---
configs:
- config_name: default
  data_files:
  - {split: 330k_train, path: round0/330k/train.jsonl.gz}
  - {split: 30k_train, path: round0/30k/train.jsonl.gz}
---
"""
FEW = "--set selection.evidence=token --set selection.discard_fraction=0.1 --json"


def test_all_that_is_marked_so_is_run_here() -> None:
    assert [PLAN] == MARKED


def lines(records: list[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(record) + "\n" for record in records).encode()


def parquet(records: list[dict[str, Any]]) -> bytes:
    written = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(records), written)
    return written.getvalue()


@pytest.fixture
def hub() -> Iterator[PublicHub]:
    """The sets of the recipes: one file or several, packed or not, splits by a card or by the names of files."""
    attempts = [red_team(number, rating) for number in range(ENOUGH) for rating in (4.0, 0.0)]
    told = [{"instruction": f"Do {n}.", "context": "", "response": f"Did {n}."} for n in range(ENOUGH)]
    files = {
        "Anthropic/hh-rlhf": {
            "harmless-base/train.jsonl.gz": gzip.compress(lines([{"chosen": "a", "rejected": "b"}])),
            RED_TEAM.partition("hh-rlhf/")[2]: gzip.compress(lines(attempts)),
        },
        DOLLY: {"README.md": b"---\nlicense: cc-by-sa-3.0\n---\n", "databricks-dolly-15k.jsonl": lines(told)},
        BEAVERS: {
            "README.md": SPLITS.encode(),
            "round0/330k/train.jsonl.gz": gzip.compress(lines(HUB[BEAVERS][0] * 3)),
            "round0/30k/train.jsonl.gz": gzip.compress(lines(HUB[BEAVERS][0])),
        },
        SAFER: {
            "data/train-00000-of-00002.parquet": parquet(HUB[SAFER][0][:1]),
            "data/train-00001-of-00002.parquet": parquet(HUB[SAFER][0][1:]),
            "data/test-00000-of-00001.parquet": parquet(HUB[SAFER][0]),
        },
        ORCA: {"oo-labeled_correct.gpt4.sharegpt.jsonl": lines(HUB[ORCA][0])},
        "openai/gsm8k": {GSM8K.partition("gsm8k/")[2]: parquet(HUB[GSM8K][0])},
    }
    with public_hub(files) as opened:
        yield opened


@pytest.fixture
def here(tmp_path: Path, tiny_model_folder: Path) -> Path:
    """The working folder of the page: the recipes, a model, data of one's own."""
    folder = tmp_path / "here"
    (folder / "path/or").mkdir(parents=True)
    (folder / "path/or/hub-id").symlink_to(tiny_model_folder)
    (folder / "recipes").symlink_to(ROOT / "recipes")
    write_rows(folder / "mine.jsonl", [own(number) for number in range(ENOUGH)])
    return folder


def planned(code: str, here: Path, hub: PublicHub) -> str:
    return bash(code, here, HF_ENDPOINT=hub.url, HF_HOME=str(here / "cache"), HF_HUB_OFFLINE="0", HF_TOKEN="")


@pytest.mark.long
def test_a_recipe_is_planned_on_sets_of_the_hub(hub: PublicHub, here: Path) -> None:
    """Of each attempt that is rated 4 there is one that is rated 0, which the recipe leaves out."""
    said = planned(PLAN.code, here, hub)
    rows = dict(re.findall(r"^ (custom|harmful|utility) +(\d+) ", said, re.MULTILINE))
    assert rows == dict.fromkeys(("custom", "harmful", "utility"), str(ENOUGH)), said
    assert hub.read == {RED_TEAM.removeprefix("hf://datasets/"), *(f"{DOLLY}/{name}" for name in hub.files[DOLLY])}


@pytest.mark.long
@pytest.mark.parametrize(
    ("recipe", "harmful", "utility"), [("beavertails", BEAVERS, ORCA), ("pku-saferlhf", SAFER, GSM8K)]
)
def test_the_split_is_read_that_a_recipe_means(
    recipe: str, harmful: str, utility: str, hub: PublicHub, here: Path
) -> None:
    said = planned(f"{PLAN.code.replace('red-team', recipe).strip()} {FEW} 2>log", here, hub)
    rows = {name: counts["rows"] for name, counts in json.loads(said)["sets"].items()}
    assert rows == {"custom": ENOUGH, "harmful": len(HUB[harmful][1]), "utility": len(HUB[utility][1])}


@pytest.mark.long
@pytest.mark.parametrize(
    ("asked", "says"),
    [
        (f"path={BEAVERS} --set data.utility.split=40k_train", "on the hub its split '40k_train' cannot be read"),
        (f"path=hf://datasets/{DOLLY}/b.jsonl", f"hf://datasets/{DOLLY}/b.jsonl: no such file"),
    ],
)
def test_what_the_hub_has_not_is_refused_by_its_name(asked: str, says: str, hub: PublicHub, here: Path) -> None:
    code = f"{PLAN.code.strip()} --set data.utility.{asked} || test $? = 2"
    assert says in " ".join(planned(code, here, hub).split())
