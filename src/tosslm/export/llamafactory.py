"""A saved data set for LLaMA-Factory, in the form that old and new versions of `datasets` load alike."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa

from tosslm.export.kind import ExportKind, Job, Snippet, Written
from tosslm.export.parquet import SCHEMA, plain_record
from tosslm.export.rows import MaskedRow

FOLDER = "tokenized"
_ARROW = "data-00000-of-00001.arrow"


def _features() -> dict[str, Any]:
    # "Sequence" is what a list is called up to datasets 3; later versions still know the name, not the reverse.
    return {
        field.name: {"feature": {"dtype": str(field.type.value_type), "_type": "Value"}, "_type": "Sequence"}
        for field in SCHEMA
    }


def _write(rows: Iterator[MaskedRow], folder: Path, job: Job) -> Written:
    train = folder / FOLDER / "train"
    train.mkdir(parents=True)
    with pa.ipc.new_stream(train / _ARROW, SCHEMA) as writer:
        while batch := list(islice(rows, 1000)):
            records = [plain_record(row) for row in batch]
            columns = {name: [record[name] for record in records] for name in SCHEMA.names}
            writer.write_table(pa.table(columns, schema=SCHEMA))
    state: dict[str, Any] = {
        "_data_files": [{"filename": _ARROW}],
        "_fingerprint": "0" * 16,
        "_format_columns": None,
        "_format_kwargs": {},
        "_format_type": None,
        "_output_all_columns": False,
        "_split": "train",
    }
    for path, value in (
        (train / "state.json", state),
        (train / "dataset_info.json", {"citation": "", "description": "", "features": _features()}),
        (train.parent / "dataset_dict.json", {"splits": ["train"]}),
    ):
        path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
    return Written()


_YAML = """# llamafactory-cli train llamafactory.yaml
model_name_or_path: @MERGED@
tokenized_path: tokenized  # relative to where llamafactory-cli is called: go to @FOLDER@
dataset: identity  # both have to be set, and are not read where tokenized_path is
template: default
cutoff_len: @LONGEST@
packing: false  # is not applied to such rows
stage: sft
do_train: true
finetuning_type: lora
lora_rank: 16
lora_target: all
per_device_train_batch_size: 4
learning_rate: 0.0001
num_train_epochs: 1
output_dir: trained
"""

KIND = ExportKind(
    "llamafactory",
    f"{FOLDER}/: input_ids, attention_mask, labels as a saved data set",
    _write,
    (Snippet("llama-factory", "llamafactory.yaml", _YAML),),
    data=f"{FOLDER}/train/{_ARROW}",
)
