"""Read an export as ms-swift does: its own loader, its ChatML template, labels and weights as its loss takes them.

Runs in the consumer's environment: python swift_rows.py EXPORT OUT.jsonl TOKENIZER SYSTEM
"""

import json
import os
import sys
from pathlib import Path

os.environ |= {"USE_HF": "1", "MODELSCOPE_CACHE": str(Path(sys.argv[2]).resolve().parent / "modelscope")}

from swift.dataset import load_dataset
from swift.model import get_processor
from swift.template import get_template


def main(export: Path, out: Path, tokenizer: str, system: str) -> None:
    """Write what the trainer would learn from, a row a line."""
    rows, _ = load_dataset([str(export / "data.jsonl")])
    template = get_template(
        get_processor(tokenizer, model_type="qwen2"),
        template_type="chatml",
        loss_scale="default",
        is_binary_loss_scale=False,
        default_system=system,
        max_length=None,
    )
    template.set_mode("train")
    with out.open("w", encoding="utf-8") as file:
        for row in rows:
            encoded = template.encode(row)
            weights = encoded.get("loss_scale")
            record = {"ids": encoded["input_ids"], "labels": encoded["labels"]}
            file.write(json.dumps(record | ({"weights": weights} if weights is not None else {})) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve(), Path(sys.argv[2]).resolve(), sys.argv[3], sys.argv[4])
