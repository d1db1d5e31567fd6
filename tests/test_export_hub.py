"""An export on a hub: a real server on this machine, asked by the Hub's own library."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import datasets
import pyarrow.parquet as pq
import pytest
import yaml

import tosslm
from conftest import demo_rows, write_rows
from support.hub import LocalHub, local_hub
from tosslm import InputError, TosslmError
from tosslm.export import KINDS
from tosslm.export.handing import export_run
from tosslm.export.hub import Hub, check_hub
from tosslm.export.kind import ExportKind
from tosslm.export.sharing import share_run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, tiny_model_folder: Path) -> tosslm.Run:
    """Three tokens of ten are dropped at random; a degraded adapter lies beside, as TOSS leaves one."""
    folder = tmp_path_factory.mktemp("shared")
    for name in ("custom", "harmful", "utility"):
        write_rows(folder / f"{name}.jsonl", demo_rows(name, 8))
    config = {
        "run_dir": str(folder / "run"),
        "method": "random",
        "model": {"name": str(tiny_model_folder), "dtype": "float32", "device": "cpu"},
        "data": {name: {"path": str(folder / f"{name}.jsonl")} for name in ("custom", "harmful", "utility")},
        "selection": {"discard_fraction": 0.3, "evidence": "token"},
    }
    made = tosslm.run(config, until="select")
    degraded = made.path / "references" / "degraded" / "round-0"
    degraded.mkdir(parents=True)
    (degraded / "adapter_model.safetensors").write_bytes(b"weights that answer harmfully")
    return made


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalHub]:
    with local_hub() as opened:
        monkeypatch.setenv("HF_TOKEN", opened.token)
        yield opened


def target(hub: LocalHub, repo: str = "me/rows", private: bool = True, license_: str | None = None) -> Hub:
    return Hub(repo, private, license_, hub.url)


def test_the_hub_holds_the_exports_files_and_no_other(run: tosslm.Run, hub: LocalHub, tmp_path: Path) -> None:
    facts, url = share_run(run, "openai", tmp_path / "out", target(hub))
    lying = {file.name: file.read_bytes() for file in (tmp_path / "out").iterdir()}
    assert set(lying) == {"data.jsonl", "upload.sh", "README.md", "export.json"}
    assert {name: text for name, text in hub.files["me/rows"].items() if name != ".gitattributes"} == lying
    assert not any(b"answer harmfully" in text for text in [*hub.files["me/rows"].values(), *hub.large.values()])
    assert hub.private == {"me/rows": True}
    assert url.endswith("/datasets/me/rows")
    assert facts["hub"] == {"repo": "me/rows", "private": True, "license": None}


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.key)
def test_what_is_meant_for_the_hub_names_no_place_of_this_machine(
    run: tosslm.Run, tmp_path: Path, tiny_model_folder: Path, kind: ExportKind
) -> None:
    export_run(run, kind.key, tmp_path / "out", hub=Hub("me/rows"))
    written = b"".join(file.read_bytes() for file in (tmp_path / "out").rglob("*") if file.is_file())
    for place in (tmp_path, run.path.parent, tiny_model_folder.parent):
        assert str(place).encode() not in written


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.key)
def test_datasets_loads_what_the_card_names(run: tosslm.Run, tmp_path: Path, kind: ExportKind) -> None:
    """Left to itself it would take ``export.json`` for rows."""
    facts = export_run(run, kind.key, tmp_path / "out")
    head = yaml.safe_load((tmp_path / "out/README.md").read_text(encoding="utf-8").split("---\n")[1])
    if head.get("viewer") is False:
        assert kind.key == "olmo"
        return
    rows = datasets.load_dataset(str(tmp_path / "out"), split="train", cache_dir=str(tmp_path / "cache"))
    assert len(rows) == facts["written"].get("packs", facts["written"].get("rows_written", facts["rows"]))


def test_the_card_says_what_is_in_it(run: tosslm.Run, tmp_path: Path) -> None:
    facts = export_run(run, "parquet", tmp_path / "out", hub=Hub("me/rows", license="cc-by-4.0"))
    text = (tmp_path / "out/README.md").read_text(encoding="utf-8")
    head = yaml.safe_load(text.split("---\n")[1])
    assert head["license"] == "cc-by-4.0"
    assert "not-for-all-audiences" in head["tags"]
    assert "contains the harmful text itself" in text
    labels = pq.read_table(tmp_path / "out/data.parquet")["labels"].to_pylist()
    trained = sum(label != -100 for row in labels for label in row)
    assert f"| response tokens that are trained | {trained:,} |" in text
    assert f"{facts['tokenizer']['files']['tokenizer.json'][:16]}" in text
    assert "at a discard fraction of 0.3" in text
    assert "No reference model had a part in it" in text
    for kind in KINDS:
        if kind.key == "parquet":
            assert all(f"- {snippet.consumer}: `{snippet.file}`" in text for snippet in kind.snippets)


def test_an_upload_that_broke_goes_on(run: tosslm.Run, hub: LocalHub, tmp_path: Path) -> None:
    """With the card as its owner has edited it meanwhile."""
    hub.failing["/commit/"] = 400
    with pytest.raises(InputError, match="the Hub refuses it"):
        share_run(run, "openai", tmp_path / "out", target(hub))
    hub.failing.clear()
    card = tmp_path / "out/README.md"
    card.write_text(card.read_text(encoding="utf-8") + "\nMine.\n", encoding="utf-8")
    share_run(run, "openai", tmp_path / "out", target(hub))
    assert hub.files["me/rows"]["README.md"].endswith(b"\nMine.\n")


def stray(out: Path) -> None:
    (out / "adapter_model.safetensors").write_bytes(b"weights")


def linked(out: Path) -> None:
    (out / "more").symlink_to(out / "data.jsonl")


def changed(out: Path) -> None:
    (out / "data.jsonl").write_text("{}\n", encoding="utf-8")


@pytest.mark.parametrize("spoil", [stray, linked, changed])
def test_a_folder_that_is_not_as_it_was_made_is_not_uploaded(
    run: tosslm.Run, hub: LocalHub, tmp_path: Path, spoil: Callable[[Path], None]
) -> None:
    export_run(run, "openai", tmp_path / "out", hub=target(hub))
    spoil(tmp_path / "out")
    with pytest.raises(InputError, match="is not as the export made it"):
        share_run(run, "openai", tmp_path / "out", target(hub))
    assert not hub.files


def test_an_export_under_another_training_is_not_uploaded(run: tosslm.Run, hub: LocalHub, tmp_path: Path) -> None:
    """Its labels are others, though the selection is the same."""
    export_run(run, "parquet", tmp_path / "out", hub=target(hub))
    shutil.copytree(run.path, tmp_path / "run")
    manifest = json.loads((tmp_path / "run/manifest.json").read_text())
    manifest["config"]["finetune"] |= {"dropped": "anchor", "anchor_first": 3}
    (tmp_path / "run/manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(InputError, match="holds another export"):
        share_run(tosslm.load_run(tmp_path / "run"), "parquet", tmp_path / "out", target(hub))


def test_the_card_says_whose_choice_it_is(run: tosslm.Run, tmp_path: Path) -> None:
    decided = tmp_path / "decided.jsonl"
    decided.write_text(json.dumps({"row_id": run.rows["row_id"][0], "decision": "drop", "by": "anna"}) + "\n")
    own = run.manifest["config"] | {"run_dir": str(tmp_path / "run"), "method": "oracle"}
    own["compare"] = own["compare"] | {"harmful_sources": ["unsafe", "mixed"]}
    own["selection"] = own["selection"] | {"overrides": str(decided)}
    oracle = tosslm.run(own, until="select")
    export_run(oracle, "parquet", tmp_path / "out", hub=Hub("me/rows"))
    text = (tmp_path / "out/README.md").read_text(encoding="utf-8")
    assert f"People dropped {len(oracle.keep()[0]):,} tokens and kept 0 by hand" in text
    assert "at a discard fraction" not in text  # the oracle drops what is marked, whatever the fraction
    assert "anna" not in text + (tmp_path / "out/export.json").read_text()


def test_an_export_for_other_eyes_is_not_uploaded(run: tosslm.Run, hub: LocalHub, tmp_path: Path) -> None:
    export_run(run, "openai", tmp_path / "out")
    with pytest.raises(InputError, match="holds another export"):
        share_run(run, "openai", tmp_path / "out", target(hub))
    assert not hub.files


def full(hub: LocalHub) -> Hub:
    hub.files["me/rows"], hub.private["me/rows"] = {".gitattributes": b"", "a.txt": b"", "b.txt": b""}, True
    return target(hub)


def public_one(hub: LocalHub) -> Hub:
    hub.files["me/rows"], hub.private["me/rows"] = {".gitattributes": b""}, False
    return target(hub)


def wrong_token(hub: LocalHub) -> Hub:
    hub.token = "hf_another"
    return target(hub)


def broken(hub: LocalHub) -> Hub:
    hub.failing["/api/datasets/"] = 503
    return target(hub)


REFUSALS: list[tuple[Callable[[LocalHub], Hub], str]] = [
    (full, r"exists and holds a\.txt and 1 more files"),
    (public_one, "exists and is public"),
    (wrong_token, r"does not let this token write there \(401\)"),
    (broken, r"the Hub failed \(503\)"),
    (lambda hub: target(hub, "rows"), "name the owner too"),
    (lambda hub: target(hub, "me/ro ws"), "me/ro ws"),
    (lambda hub: target(hub, private=False), "state it with --license"),
    (lambda hub: Hub("me/rows", endpoint="http://127.0.0.1:9"), "cannot be reached"),
]


@pytest.mark.parametrize(("made", "message"), REFUSALS)
def test_refused_before_anything_is_written(hub: LocalHub, made: Callable[[LocalHub], Hub], message: str) -> None:
    with pytest.raises(TosslmError, match=message):
        check_hub(made(hub))


def test_no_token(monkeypatch: pytest.MonkeyPatch, hub: LocalHub, tmp_path: Path) -> None:
    monkeypatch.delenv("HF_TOKEN")
    if Path.home().joinpath(".cache/huggingface/token").exists():
        pytest.skip("somebody is logged in here")
    with pytest.raises(InputError, match="hf auth login"):
        check_hub(target(hub))


def test_a_stranger_s_namespace_and_a_bad_card(run: tosslm.Run, hub: LocalHub, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="name an owner that is you"):
        share_run(run, "openai", tmp_path / "theirs", target(hub, "them/rows"))
    with pytest.raises(InputError, match=r"mend README\.md, or --license"):
        share_run(run, "openai", tmp_path / "bad", target(hub, license_="no-license"))
    assert set(hub.files["me/rows"]) == {".gitattributes"}


@pytest.mark.long
def test_the_command_uploads_large_files_too(run: tosslm.Run, hub: LocalHub, tmp_path: Path) -> None:
    shutil.copytree(run.path, tmp_path / "run")
    command = [
        sys.executable,
        "-m",
        "tosslm",
        "export",
        "run",
        "out",
        "--to",
        "trl",
        "--push-to-hub",
        "me/rows",
        "--json",
    ]
    env = os.environ | {"HF_ENDPOINT": hub.url, "HF_HUB_DISABLE_XET": "1", "HF_HUB_OFFLINE": "0"}
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["url"].endswith("/datasets/me/rows")
    assert hub.files["me/rows"]["data.parquet"] == (tmp_path / "out/data.parquet").read_bytes()
    again = subprocess.run(command[:-1], cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    assert again.returncode == 2
    assert "exists and holds" in again.stderr
