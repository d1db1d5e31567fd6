"""Scoring against the way the authors' code does it, and against its matrix products alone, side by side.

Theirs: each reference is a model by itself; batches of 4 rows in the order of the file, padded to the longest;
logits over the whole vocabulary and cross-entropy at every position, prompts and padding among them. Ours:
``response_losses`` under adapters on one copy of the base. The products: the base's linear layers on as many tokens,
without padding, in the batches that ours reads where rows share no beginning; the head where a response token is
predicted; nothing else. All read the same rows in turns, part by part, so that a machine that slows down slows all;
loading is not counted. The losses are compared too.

With ``--shared``, rows have so many tokens in common before ``--own`` of their own, and ours is compared with itself
when it reads each row whole.

    python benchmarks/scoring.py --data gsm8k_train.jsonl.gz     # JSONL with `question` and `answer`
    python benchmarks/scoring.py                                 # openai/gsm8k from the hub
    python benchmarks/scoring.py --threads 1 --json out.json     # processor seconds: a busy machine counts less
    python benchmarks/scoring.py --model runs/proxy/gemma-3-270m # another model; see studies/proxy/gemma.py
"""

from __future__ import annotations

import argparse
import itertools
import json
import platform
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import torch
import transformers
from peft import LoraConfig, PeftModel, get_peft_model

import tosslm
from tosslm.config import ModelConfig
from tosslm.model.adapters import attached_adapters
from tosslm.model.base import Base, open_base
from tosslm.model.losses import batch_budget, plan_batches
from tosslm.quiet import quiet_libraries

NAMES = ("utility", "degraded")
Rows = list[dict[str, Any]]


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
def plain_losses(model: Any, rows: Rows, pad: int) -> list[np.ndarray]:
    """The authors' way."""
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


@torch.inference_mode()
def products(model: Any, rows: Rows, batch_tokens: int) -> None:
    """The linear layers of a model without adapters, on as many tokens as rows have before their last response."""
    ends = [int(np.flatnonzero(row["response_mask"])[-1]) for row in rows]
    head = model.get_output_embeddings()
    layers = [layer for layer in model.modules() if type(layer) is torch.nn.Linear and layer is not head]
    for batch in plan_batches(ends, batch_budget(model, batch_tokens)):
        read = sum(ends[i] for i in batch)
        inputs = {
            width: torch.randn(read, width).to(model.dtype) for width in {layer.in_features for layer in layers}
        }
        for layer in layers:
            layer(inputs[layer.in_features])
        predicted = torch.randn(sum(sum(rows[i]["response_mask"]) for i in batch), head.in_features).to(model.dtype)
        for part in predicted.split(256):
            head(part)


def timed(ways: Mapping[str, Callable[[Rows], Any]], rows: Rows, parts: int) -> dict[str, Any]:
    """Seconds of each way for each part, and what each gave."""
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    given: dict[str, list[Any]] = {name: [] for name in ways}
    for way in ways.values():
        way(rows[:2])  # first calls choose kernels and fill pages
    size = -(-len(rows) // parts)
    for number, start in enumerate(range(0, len(rows), size)):
        # Who goes first changes, for a part may find the machine quicker at one of its ends.
        for name in list(ways) if number % 2 == 0 else list(ways)[::-1]:
            begin = clock()
            given[name].append(ways[name](rows[start : start + size]))
            seconds[name].append(clock() - begin)
        told = ", ".join(f"{name} {taken[-1]:.2f} s" for name, taken in seconds.items())
        print(f"rows {start}-{start + size}: {told}", flush=True)
    return {"seconds": seconds, "given": given, "clock": clock.__name__}


def spread(numerators: Sequence[float], denominators: Sequence[float]) -> dict[str, float]:
    ratios = [a / b for a, b in zip(numerators, denominators, strict=True)]
    return {"median": statistics.median(ratios), "lowest": min(ratios), "highest": max(ratios)}


def apart(one: list[list[np.ndarray]], other: list[list[np.ndarray]]) -> float:
    """The largest difference of two ways' losses, in nats."""
    pairs = zip(itertools.chain(*one), itertools.chain(*other), strict=True)
    return max(float(np.abs(a - b).max()) for a, b in pairs)


def begun_alike(rows: Rows, shared: int, own: int) -> Rows:
    """Rows that begin with the same ``shared`` tokens, each with ``own`` of its own, the last half a response."""
    tokens = [token for row in rows for token in row["input_ids"]]
    beginning, rest = tokens[:shared], tokens[shared:]
    mask = [False] * (shared + own // 2) + [True] * (own - own // 2)
    pieces = [rest[start : start + own] for start in range(0, len(rest) - own + 1, own)]
    return [{"input_ids": beginning + piece, "response_mask": mask} for piece in pieces[: len(rows)]]


def model_of(args: argparse.Namespace) -> ModelConfig:
    """The model that reads, from its own weights."""
    return ModelConfig(**({"name": args.model} if args.model else {}), dtype=args.dtype, device="cpu")


def begin(args: argparse.Namespace) -> tuple[Base, Rows]:
    """The base and the rows."""
    base = open_base(model_of(args))
    conversations = [
        {"messages": [{"role": "user", "content": row["question"]}, {"role": "assistant", "content": row["answer"]}]}
        for row in itertools.islice(gsm8k(args.data), args.rows)
    ]
    rows: Rows = [
        {key: row[key] for key in ("input_ids", "response_mask")}
        for row in tosslm.tokenize_rows(conversations, base.tokenizer)
    ]
    return base, rows


def measured(args: argparse.Namespace) -> dict[str, Any]:
    base, rows = begin(args)
    source = commit()  # before the work, which may outlast it
    with tempfile.TemporaryDirectory() as scratch:
        folders = random_adapters(base, Path(scratch))
        plain, bare = (open_base(model_of(args)).model for _ in range(2))
        plain = PeftModel.from_pretrained(plain, folders["degraded"]).eval()
        with attached_adapters(base, folders) as both:
            both.set_adapter("degraded")
            ours = lambda part: tosslm.response_losses(both, part, batch_tokens=args.batch_tokens)  # noqa: E731
            whole = lambda part: tosslm.response_losses(  # noqa: E731
                both, part, batch_tokens=args.batch_tokens, share=False
            )
            if args.shared:
                rows = begun_alike(rows, args.shared, args.own)
                ways: dict[str, Callable[[Rows], Any]] = {"ours": ours, "unshared": whole}
            else:
                ways = {
                    "authors": lambda part: plain_losses(plain, part, base.tokenizer.pad_token_id),
                    "ours": ours,
                    "products": lambda part: products(bare, part, args.batch_tokens),
                }
            run = timed(ways, rows, args.parts) | {"commit": source}
    return described(args, rows, run)


def described(args: argparse.Namespace, rows: Rows, run: dict[str, Any]) -> dict[str, Any]:
    seconds, given = run["seconds"], run["given"]
    found: dict[str, Any] = {
        "model": Path(args.model).name if args.model else None,
        "rows": len(rows),
        "parts": args.parts,
        "tokens": sum(len(row["input_ids"]) for row in rows),
        "response_tokens": sum(sum(row["response_mask"]) for row in rows),
        "shared": args.shared,
        "own": args.own,
        "dtype": args.dtype,
        "threads": torch.get_num_threads(),
        "clock": run["clock"],
        "processor": processor(),
        "commit": run["commit"],
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
        "seconds": seconds,
    }
    if args.shared:
        found["unshared_over_ours"] = spread(seconds["unshared"], seconds["ours"])
        found["apart_unshared"] = apart(given["unshared"], given["ours"])
    else:
        found["authors_over_ours"] = spread(seconds["authors"], seconds["ours"])
        found["products_over_ours"] = spread(seconds["products"], seconds["ours"])
        found["apart_authors"] = apart(given["authors"], given["ours"])
    return found


def commit() -> str:
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short", "HEAD"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


def processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        lines = info.read_text(encoding="utf-8").splitlines()
        flags = next((line for line in lines if line.startswith("flags")), "").split()
        name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
        fast = [flag for flag in ("amx_bf16", "avx512_bf16", "avx512f", "avx2") if flag in flags]
        return f"{name} ({', '.join(fast[:1])})"
    return platform.machine()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="JSONL (.gz) with question and answer; default: openai/gsm8k from the hub")
    parser.add_argument("--rows", type=int, default=500)
    parser.add_argument("--parts", type=int, default=5, help="turns that the ways take")
    parser.add_argument("--batch-tokens", type=int, default=16384)
    parser.add_argument("--model", help="a model folder; default: the built-in SmolLM2-135M-Instruct")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--threads", type=int, help="of the processor; default: as many as PyTorch takes")
    parser.add_argument("--shared", type=int, default=0, help="tokens that rows begin with in common")
    parser.add_argument("--own", type=int, default=100, help="tokens of each row after those")
    parser.add_argument("--json", type=Path, help="where to write what was measured")
    parser.add_argument("--check", action="store_true", help="exit 1 below 1.4 times the authors' speed")
    args = parser.parse_args()
    quiet_libraries()
    if args.threads:
        torch.set_num_threads(args.threads)
    found = measured(args)
    if args.json:
        args.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    for name in ("authors_over_ours", "products_over_ours", "unshared_over_ours"):
        if name in found:
            print(f"{name}: " + ", ".join(f"{key} {value:.2f}" for key, value in found[name].items()))
    print(
        ", ".join(f"{name} {found[name]:.1e} nats" for name in ("apart_authors", "apart_unshared") if name in found)
    )
    if args.check and found["authors_over_ours"]["median"] < 1.4:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
