"""Read an export as LLaMA-Factory does, from its own config to the batches of its own collator.

Runs in the consumer's environment: python llamafactory_rows.py EXPORT OUT.jsonl
"""

import json
import os
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

import yaml

# Imported at once for sound, which is not read here; the builds on PyPI want CUDA.
sys.modules["torchaudio"] = ModuleType("torchaudio")
sys.modules["torchaudio"].__spec__ = ModuleSpec("torchaudio", None)

from llamafactory.data import SFTDataCollatorWith4DAttentionMask, get_dataset, get_template_and_fix_tokenizer
from llamafactory.hparams import get_train_args
from llamafactory.model import load_tokenizer


def main(export: Path, out: Path) -> None:
    """Write what the trainer would learn from, a row a line."""
    os.chdir(export)  # tokenized_path is relative, as the config says
    config = yaml.safe_load(Path("llamafactory.yaml").read_text(encoding="utf-8"))
    output = {"output_dir": str(out.parent / "trained"), "report_to": "none"}
    model_args, data_args, training_args, _, _ = get_train_args(config | output)
    loaded = load_tokenizer(model_args)
    template = get_template_and_fix_tokenizer(loaded["tokenizer"], data_args)
    rows = get_dataset(template, model_args, data_args, training_args, stage="sft", **loaded)["train_dataset"]
    collate = SFTDataCollatorWith4DAttentionMask(
        template=template, pad_to_multiple_of=8, label_pad_token_id=-100, model=None, **loaded
    )
    with out.open("w", encoding="utf-8") as file:
        for start in range(0, len(rows), 4):
            batch: Any = collate([rows[i] for i in range(start, min(start + 4, len(rows)))])
            for ids, labels, seen in zip(batch["input_ids"], batch["labels"], batch["attention_mask"], strict=True):
                real = seen.bool()
                assert (labels[~real] == -100).all(), "padding is trained"
                file.write(json.dumps({"ids": ids[real].tolist(), "labels": labels[real].tolist()}) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]).resolve())
