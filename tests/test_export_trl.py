"""An export through TRL's own path: what its collator hands to the model is what the run trains, label by label."""

from __future__ import annotations

import runpy
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import load_dataset
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import SFTConfig, SFTTrainer

import tosslm
from test_export import config_of, expected
from tosslm.export.handing import export_run

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, tiny_model_folder: Path) -> tosslm.Run:
    return tosslm.run(config_of(tmp_path_factory.mktemp("trl"), tiny_model_folder), until="select")


def labelled(run: tosslm.Run) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Ids and labels of each row."""
    return [
        (tuple(ids), tuple(token if learnt else -100 for token, learnt in zip(ids, trained, strict=True)))
        for ids, trained in expected(run)
    ]


def trainer_on(run: tosslm.Run, model: Path, folder: Path, **settings: Any) -> SFTTrainer:
    export_run(run, "trl", folder / "out")
    return SFTTrainer(
        model=AutoModelForCausalLM.from_pretrained(model),
        args=SFTConfig(output_dir=str(folder / "trained"), use_cpu=True, bf16=False, report_to="none", **settings),
        train_dataset=load_dataset("parquet", data_files=str(folder / "out/data.parquet"), split="train"),
        processing_class=AutoTokenizer.from_pretrained(model),
    )


def test_one_row_after_the_other(run: tosslm.Run, tmp_path: Path, tiny_model_folder: Path) -> None:
    trainer = trainer_on(run, tiny_model_folder, tmp_path, max_length=None, packing=False)
    rows = labelled(run)
    assert len(trainer.train_dataset) == len(rows)
    for start in range(0, len(rows), 4):
        wanted = rows[start : start + 4]
        batch = trainer.data_collator([trainer.train_dataset[i] for i in range(start, start + len(wanted))])
        for i, (ids, labels) in enumerate(wanted):
            length = len(ids)
            assert tuple(batch["input_ids"][i, :length].tolist()) == ids
            assert tuple(batch["labels"][i, :length].tolist()) == labels
            assert batch["attention_mask"][i].tolist() == [1] * length + [0] * (batch["labels"].shape[1] - length)
            assert (batch["labels"][i, length:] == -100).all()


def test_packed(run: tosslm.Run, tmp_path: Path, tiny_model_folder: Path) -> None:
    """Packing needs a length; with that of the longest row none is cut."""
    longest = max(len(ids) for ids, _ in labelled(run))
    settings = {"packing": True, "packing_strategy": "bfd", "max_length": longest}
    trainer = trainer_on(run, tiny_model_folder, tmp_path, **settings)
    found: Counter[Any] = Counter()
    packs = trainer.train_dataset
    assert len(packs) < len(labelled(run))
    for i in range(len(packs)):
        batch = trainer.data_collator([packs[i]])
        ids, labels = (batch[name].reshape(-1).tolist() for name in ("input_ids", "labels"))
        ends = np.cumsum(packs[i]["seq_lengths"]).tolist()
        for start, end in zip([0, *ends[:-1]], ends, strict=True):
            found[tuple(ids[start:end]), tuple(labels[start:end])] += 1
        assert set(ids[ends[-1] :]) <= {trainer.processing_class.pad_token_id}
    assert found == Counter(labelled(run))


def test_the_default_length_would_cut(run: tosslm.Run, tmp_path: Path, tiny_model_folder: Path) -> None:
    """Why the config says max_length=None: at a length, TRL cuts without a word."""
    trainer = trainer_on(run, tiny_model_folder, tmp_path, max_length=24)
    assert max(len(row["input_ids"]) for row in trainer.train_dataset) == 24
    assert SFTConfig(output_dir=str(tmp_path), use_cpu=True, bf16=False).max_length == 1024


@pytest.mark.long
def test_the_config_that_comes_along_trains(run: tosslm.Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    export_run(run, "trl", tmp_path / "out")
    names = runpy.run_path(str(tmp_path / "out/train_trl.py"))
    [*_, last] = names["trainer"].state.log_history
    assert np.isfinite(last["train_loss"])
    assert (tmp_path / "out-trained/adapter_model.safetensors").is_file()
