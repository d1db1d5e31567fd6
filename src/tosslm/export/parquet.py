"""One plain Parquet with token ids and labels, which most trainers take as it is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from tosslm.export.axolotl_config import axolotl_yaml
from tosslm.export.kind import ExportKind, Job, Snippet, Written
from tosslm.export.rows import MaskedRow
from tosslm.export.tables import write_plain_parquet

FILE = "data.parquet"
SCHEMA = pa.schema(
    {
        "input_ids": pa.list_(pa.int32()),
        "attention_mask": pa.list_(pa.int8()),
        "labels": pa.list_(pa.int32()),
    }
)


def plain_record(row: MaskedRow) -> Mapping[str, Any]:
    """A row's three columns."""
    return {
        "input_ids": row.input_ids,
        "attention_mask": np.ones(len(row.input_ids), dtype=np.int8),
        "labels": row.labels,
    }


def _write(rows: Iterator[MaskedRow], folder: Path, job: Job) -> Written:
    write_plain_parquet(folder / FILE, SCHEMA, map(plain_record, rows))
    return Written()


_TRL = '''"""Fine-tune with TRL on the rows beside this file: they are tokens already, and none is cut."""

from pathlib import Path

import torch
from datasets import load_dataset
from peft import LoraConfig, PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import SFTConfig, SFTTrainer

BASE, ADAPTER = @BASE@, @ADAPTER@
here = Path(__file__).resolve().parent

rows = load_dataset("parquet", data_files=str(here / "data.parquet"), split="train")
# A batch without any label has no loss, and TRL drops such rows only where it cuts.
rows = rows.filter(lambda row: any(label != -100 for label in row["labels"]))
model = AutoModelForCausalLM.from_pretrained(BASE)
if ADAPTER:  # the base is not the aligned one without it
    model = PeftModel.from_pretrained(model, ADAPTER).merge_and_unload()
trainer = SFTTrainer(
    model=model,
    args=SFTConfig(
        output_dir=str(here.parent / f"{here.name}-trained"),
        max_length=None,  # 1024 by default, which cuts. For packing=True it has to be a number: @LONGEST@ or more
        per_device_train_batch_size=4,
        num_train_epochs=1,
        bf16=torch.cuda.is_available(),
        use_cpu=not torch.accelerator.is_available(),
        report_to="none",
    ),
    train_dataset=rows,
    processing_class=AutoTokenizer.from_pretrained(BASE),
    peft_config=LoraConfig(task_type="CAUSAL_LM", target_modules="all-linear"),
)
trainer.train()
trainer.save_model()
'''

_UNSLOTH = '''"""Fine-tune with Unsloth on the rows beside this file; no train_on_responses_only, which relabels."""

from pathlib import Path

from unsloth import FastLanguageModel  # before trl
from datasets import load_dataset
from trl import SFTConfig, SFTTrainer

here = Path(__file__).resolve().parent
model, tokenizer = FastLanguageModel.from_pretrained(@MERGED@, max_seq_length=@LONGEST@)
model = FastLanguageModel.get_peft_model(model, r=16)
rows = load_dataset("parquet", data_files=str(here / "data.parquet"), split="train")
rows = rows.filter(lambda row: any(label != -100 for label in row["labels"]))
trainer = SFTTrainer(
    model=model,
    processing_class=tokenizer,
    train_dataset=rows,
    args=SFTConfig(output_dir=str(here.parent / f"{here.name}-trained"), max_length=None, packing=False),
)
trainer.train()
'''

_AXOLOTL = """
  - path: data.parquet  # relative to where axolotl is called: go to @FOLDER@
    ds_type: parquet
    type:  # empty: the rows are tokens already
"""

_OPEN_INSTRUCT = '''"""A pass-through for open-instruct: import this in finetune.py before its arguments are read.

--dataset_mixer_list @FOLDER@ 1.0 --dataset_transform_fn tosslm_rows --max_seq_length @LONGEST@
"""

from open_instruct import dataset_transformation


def tosslm_rows(row, tokenizer, **others):
    """The rows are tokens already."""
    return row


dataset_transformation.TRANSFORM_FNS["tosslm_rows"] = (tosslm_rows, "map")
'''

_TOGETHER = """#!/bin/sh
# Nobody but Together sees how its trainer pads or cuts: compare its count of trained tokens with export.json.
together files upload "$(dirname "$0")"/data.parquet
together fine-tuning create --training-file FILE-ID --model MODEL
"""

KIND = ExportKind(
    "parquet",
    f"{FILE}: input_ids, attention_mask, labels (-100 where not trained)",
    _write,
    (
        Snippet("trl", "train_trl.py", _TRL),
        Snippet("axolotl", "axolotl.yaml", axolotl_yaml(_AXOLOTL)),
        Snippet("unsloth", "train_unsloth.py", _UNSLOTH),
        Snippet("open-instruct", "open_instruct_rows.py", _OPEN_INSTRUCT),
        Snippet("together", "together.sh", _TOGETHER),
    ),
    data=FILE,
)
