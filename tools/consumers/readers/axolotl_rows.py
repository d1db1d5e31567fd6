"""Read an export as Axolotl does, from its own config to the batches of its own collator, rows packed or not.

Runs in the consumer's environment: python axolotl_rows.py EXPORT OUT.jsonl [packed]
"""

import json
import os
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

os.environ |= {"AXOLOTL_DO_NOT_TRACK": "1", "AXOLOTL_IS_PREPROCESS": "1"}

from axolotl.cli.config import load_cfg
from axolotl.common.datasets import load_datasets
from axolotl.loaders import load_tokenizer
from axolotl.utils.collators import DataCollatorForSeq2Seq, V2BatchSamplerDataCollatorForSeq2Seq
from axolotl.utils.samplers import MultipackBatchSampler
from axolotl.utils.samplers.utils import get_dataset_lengths
from torch.utils.data import SequentialSampler


def main(export: Path, out: Path, packed: bool) -> None:
    """Write what the trainer would learn from, a row a line."""
    os.chdir(export)  # the path of the rows is relative, as the config says
    places = {"dataset_prepared_path": str(out.parent / "prepared"), "output_dir": str(out.parent / "trained")}
    packing: dict[str, Any] = {"sample_packing": True, "pad_to_sequence_len": True} if packed else {}
    cfg = load_cfg("axolotl.yaml", is_preprocess=True, **places, **packing)
    rows = load_datasets(cfg=cfg).train_dataset
    tokenizer = load_tokenizer(cfg)
    with out.open("w", encoding="utf-8") as file:
        for row in (_of_packs if packed else _of_batches)(rows, tokenizer, cfg):
            file.write(json.dumps(row) + "\n")


def _of_batches(rows: Any, tokenizer: Any, cfg: Any) -> Iterator[dict[str, list[int]]]:
    collate = DataCollatorForSeq2Seq(tokenizer)
    columns = ("input_ids", "attention_mask", "labels")
    for start in range(0, len(rows), 4):
        part = [{name: rows[i][name] for name in columns} for i in range(start, min(start + 4, len(rows)))]
        batch = collate(part)
        for ids, labels, seen in zip(batch["input_ids"], batch["labels"], batch["attention_mask"], strict=True):
            real = seen.bool()
            assert (labels[~real] == -100).all(), "padding is trained"
            yield {"ids": ids[real].tolist(), "labels": labels[real].tolist()}


def _of_packs(rows: Any, tokenizer: Any, cfg: Any) -> Iterator[dict[str, list[int]]]:
    sampler = MultipackBatchSampler(
        SequentialSampler(rows),
        lengths=get_dataset_lengths(rows),
        batch_size=1,
        batch_max_len=cfg.sequence_len,
        bin_size=cfg.sample_packing_bin_size or 200,
        drop_last=False,
        num_processes=1,
    )
    collate = V2BatchSamplerDataCollatorForSeq2Seq(tokenizer, pad_to_multiple_of=None)
    columns = ("input_ids", "attention_mask", "labels", "position_ids")
    for bins in sampler:
        packs = [[{name: rows[int(i)][name] for name in columns if name in rows[0]} for i in one] for one in bins]
        batch = collate(packs)
        for ids, labels, places in zip(batch["input_ids"], batch["labels"], batch["position_ids"], strict=True):
            starts = [*(places == 0).nonzero().flatten().tolist(), len(places)]
            for start, end in pairwise(starts):  # a row begins where its positions do
                yield {"ids": ids[start:end].tolist(), "labels": labels[start:end].tolist()}


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]).resolve(), sys.argv[3:] == ["packed"])
