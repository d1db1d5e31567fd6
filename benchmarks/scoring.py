"""Scoring against the way the authors' code does it, on the same rows in one run.

Theirs: each reference is a model by itself; batches of 4 rows in the order of the file, padded to the longest;
logits over the whole vocabulary and cross-entropy at every position, prompts and padding among them. Ours:
``response_losses`` under two adapters on one copy of the base. Both read the same rows in turns, part by part, so
that a machine that slows down slows both; loading is not counted. The losses are compared too.

    python benchmarks/scoring.py --data gsm8k_train.jsonl.gz     # JSONL with `question` and `answer`
    python benchmarks/scoring.py                                 # openai/gsm8k from the hub
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import torch
from peft import LoraConfig, PeftModel, get_peft_model

import tosslm
from tosslm.cli import quiet_libraries
from tosslm.config import ModelConfig
from tosslm.model.base import Base, attached_adapters, open_base

NAMES = ("utility", "degraded")


def gsm8k(path: str | None) -> Iterator[dict[str, Any]]:
    if path:
        with fsspec.open(path, "rt", compression="infer") as lines:
            yield from map(json.loads, lines)
    else:
        import datasets

        yield from datasets.load_dataset("openai/gsm8k", "main", split="train", streaming=True)


def random_adapters(base: Base, folder: Path) -> dict[str, Path]:
    """Two LoRA as the paper's (r = 16 on q_proj and v_proj), with weights that are not zero."""
    for seed, name in enumerate(NAMES):
        torch.manual_seed(seed)
        settings = LoraConfig(r=16, lora_alpha=16, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
        model = get_peft_model(base.model, settings)
        for key, weight in model.named_parameters():
            if "lora_B" in key:
                torch.nn.init.normal_(weight, std=0.02)
        model.save_pretrained(folder / name)
        model.unload()
    return {name: folder / name for name in NAMES}


@torch.inference_mode()
def plain_losses(model: Any, rows: list[dict[str, Any]], pad: int) -> list[np.ndarray]:
    losses: list[np.ndarray] = []
    for start in range(0, len(rows), 4):
        batch = rows[start : start + 4]
        longest = max(len(row["input_ids"]) for row in batch)
        ids = torch.full((len(batch), longest), pad)
        mask = torch.zeros_like(ids)
        for i, row in enumerate(batch):
            ids[i, : len(row["input_ids"])] = torch.tensor(row["input_ids"])
            mask[i, : len(row["input_ids"])] = 1
        logits = model(input_ids=ids, attention_mask=mask).logits
        values = torch.nn.functional.cross_entropy(
            logits[:, :-1].reshape(-1, logits.shape[-1]).float(), ids[:, 1:].reshape(-1), reduction="none"
        ).reshape(len(batch), -1)
        for i, row in enumerate(batch):
            n = len(row["input_ids"])
            losses.append(values[i, : n - 1][torch.tensor(row["response_mask"])[1:]].numpy())
    return losses


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="JSONL (.gz) with question and answer; default: openai/gsm8k from the hub")
    parser.add_argument("--rows", type=int, default=200)
    parser.add_argument("--parts", type=int, default=5, help="turns that the two ways take")
    parser.add_argument("--batch-tokens", type=int, default=16384)
    parser.add_argument("--check", action="store_true", help="exit 1 below 1.4 times as fast")
    args = parser.parse_args()
    quiet_libraries()
    base = open_base(ModelConfig(dtype="float32", device="cpu"))
    conversations = [
        {"messages": [{"role": "user", "content": row["question"]}, {"role": "assistant", "content": row["answer"]}]}
        for row in itertools.islice(gsm8k(args.data), args.rows)
    ]
    rows = list(tosslm.tokenize_rows(conversations, base.tokenizer))
    size = -(-len(rows) // args.parts)
    ratios, apart, ours_seconds, plain_seconds = [], 0.0, 0.0, 0.0
    with tempfile.TemporaryDirectory() as scratch:
        folders = random_adapters(base, Path(scratch))
        plain = {}
        for name, folder in folders.items():
            alone = open_base(ModelConfig(dtype="float32", device="cpu"))
            plain[name] = PeftModel.from_pretrained(alone.model, folder).eval()
        with attached_adapters(base, folders) as both:
            for start in range(0, len(rows), size):
                part = rows[start : start + size]
                begin = time.perf_counter()
                theirs = {
                    name: plain_losses(model, part, base.tokenizer.pad_token_id) for name, model in plain.items()
                }
                middle = time.perf_counter()
                ours = {}
                for name in NAMES:
                    both.set_adapter(name)
                    ours[name] = tosslm.response_losses(both, part, batch_tokens=args.batch_tokens)
                end = time.perf_counter()
                plain_seconds, ours_seconds = plain_seconds + middle - begin, ours_seconds + end - middle
                ratios.append((middle - begin) / (end - middle))
                for name in NAMES:
                    pairs = zip(theirs[name], ours[name], strict=True)
                    apart = max(apart, *(float(np.abs(a - b).max()) for a, b in pairs))
                print(f"rows {start}-{start + len(part)}: {ratios[-1]:.2f} times as fast", flush=True)
    tokens = 2 * sum(len(row["input_ids"]) for row in rows)
    print(
        f"{len(rows)} rows, {tokens} tokens read: {plain_seconds:.1f} s against {ours_seconds:.1f} s "
        f"({tokens / ours_seconds:.0f} tokens/s); median {statistics.median(ratios):.2f} times as fast "
        f"(lowest {min(ratios):.2f}, highest {max(ratios):.2f}); losses at most {apart:.1e} nats apart"
    )
    if args.check and statistics.median(ratios) < 1.4:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
