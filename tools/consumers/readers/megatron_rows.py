"""Read an export as Megatron-Bridge does: its packed Parquet data set and its collator, as files by themselves.

The package loads CUDA kernels at once: its folders are named here, and only the modules of the data path are loaded.
Runs in the consumer's environment: python megatron_rows.py EXPORT OUT.jsonl EOS LENGTH
"""

import importlib.util
import json
import sys
from itertools import pairwise
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

ROOT = Path(next(iter(importlib.util.find_spec("megatron").submodule_search_locations)))  # type: ignore[union-attr,arg-type]
FOLDERS = ("core", "bridge", "bridge.data", "bridge.data.datasets", "bridge.utils")
NAMES: dict[
    str, dict[str, Any]
] = {  # of what loads kernels, the names that the data path imports; it calls none of them for packed rows
    "core.tokenizers": {"MegatronTokenizer": object},
    "bridge.training.tokenizers.tokenizer": {"MegatronTokenizer": object},
    "bridge.utils.common_utils": {"get_local_rank_preinit": lambda: 0},
}
for name in (*FOLDERS, *NAMES):
    module = ModuleType(f"megatron.{name}")
    module.__dict__.update(NAMES.get(name, {"__path__": [str(ROOT / name.replace(".", "/"))]}))
    sys.modules[f"megatron.{name}"] = module

from megatron.bridge.data.packing.parquet import GPTSFTPackedParquetDataset


def main(export: Path, out: Path, eos: int, length: int) -> None:
    """Write what the trainer would learn from, a row a line; the first token, which has no label, is put back."""
    dataset = GPTSFTPackedParquetDataset(
        str(next(export.glob("*.idx.parquet"))),
        SimpleNamespace(eos_id=eos),
        max_seq_length=length,
        prompt_template="{text} {answer}",  # asked for, and not used for packed rows
        answer_only_loss=True,
        pad_to_max_length=True,
    )
    with out.open("w", encoding="utf-8") as file:
        for i in range(len(dataset)):
            pack = dataset[i]
            dataset.validate_row(i, pack["input_ids"], pack["loss_mask"], pack["seq_boundaries"][:-1])
            batch = dataset.collate_fn([pack])
            tokens, labels, mask = (batch[name][0].tolist() for name in ("tokens", "labels", "loss_mask"))
            bounds = batch["cu_seqlens_q"][0].tolist()[: len(pack["seq_boundaries"])]
            assert not any(mask[bounds[-1] :]), "padding is trained"
            for start, end in pairwise(bounds):
                shown = [label if on else -100 for label, on in zip(labels[start:end], mask[start:end], strict=True)]
                row = {"ids": [*tokens[start:end], labels[end - 1]], "labels": [-100, *shown]}
                file.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve(), Path(sys.argv[2]).resolve(), int(sys.argv[3]), int(sys.argv[4]))
