"""Read an export as OLMo-core does: the data set that comes with it, its own labels, documents told by their lengths.

Runs in the consumer's environment: python olmo_rows.py EXPORT OUT.jsonl EOS VOCABULARY LENGTH
"""

import json
import runpy
import sys
from pathlib import Path

import torch
from olmo_core.data import TokenizerConfig
from olmo_core.data.utils import get_labels


def main(export: Path, out: Path, eos: int, vocabulary: int, length: int) -> None:
    """Write what the trainer would learn from, a row a line."""
    tokenizer = TokenizerConfig(vocab_size=vocabulary, eos_token_id=eos, pad_token_id=eos)
    config = runpy.run_path(str(export / "olmo_dataset.py"))["dataset"](tokenizer, str(out.parent / "work"), length)
    dataset = config.build()
    dataset.prepare()
    with out.open("w", encoding="utf-8") as file:
        for i in range(len(dataset)):
            pack = dataset[i]
            ids = pack["input_ids"]
            # Shifted, as the loss takes them; and back, since rows are compared as they stand.
            shifted = get_labels({"input_ids": ids[None], "label_mask": pack["label_mask"][None]})[0]
            labels = torch.cat([torch.tensor([-100]), shifted[:-1]])
            start = 0
            for size in pack["doc_lens"].tolist():
                end = start + size
                row = {"ids": ids[start:end].tolist(), "labels": labels[start:end].tolist()}
                if set(row["ids"]) != {eos}:  # padding, a document each
                    file.write(json.dumps(row) + "\n")
                else:
                    assert set(row["labels"]) == {-100}, "padding is trained"
                start = end


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve(), Path(sys.argv[2]).resolve(), *map(int, sys.argv[3:]))
