"""Scoring against the way the authors' code does it, and against its matrix products alone, side by side.

Theirs: each reference is a model by itself; batches of 4 rows in the order of the file, padded to the longest;
logits over the whole vocabulary and cross-entropy at every position, prompts and padding among them. Ours:
``response_losses`` under adapters on one copy of the base. The products: the base's linear layers on as many tokens
as ours reads, a beginning that rows share once, without padding, in batches like its own; the head where a response
token is predicted; nothing else. All read the same rows in turns, part by part, so that a machine that slows down
slows all; loading is not counted. The losses are compared too. A part that was measured is not measured again.

With ``--shared``, rows have so many tokens in common before ``--own`` of their own, and ours is compared with itself
when it reads each row whole.

    OMP_NUM_THREADS=1 python -m benchmarks.scoring               # processor seconds: a busy machine counts less
    python -m benchmarks.scoring --dtype bfloat16 --shared 300 --rows 48
    python -m benchmarks.scoring --gemma                         # Gemma 3 270M, see studies/proxy/gemma.py

Rows are GSM8K's: of the studies' data where they are (``TOSSLM_DATA``), else of the hub.
"""

from __future__ import annotations

import argparse
import itertools
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from benchmarks.measuring import RESULTS, Results, folder_of, here, left_out, parser_of
from benchmarks.scoring_page import ratios
from peft import LoraConfig, PeftModel, get_peft_model
from studies.corpora import public_records
from studies.proxy.gemma import gemma_folder

import tosslm
from tosslm.config import ModelConfig
from tosslm.model.adapters import attached_adapters
from tosslm.model.base import Base, open_base
from tosslm.model.losses import batch_budget, plan_batches
from tosslm.model.prefix import can_share
from tosslm.model.texts import Group, beginnings, distinct_texts
from tosslm.quiet import quiet_libraries

FOLDER = RESULTS / "scoring"
GEMMA_ROOT = Path("runs/proxy")
BENCHED = [
    f"--dtype {dtype} {more}"
    for dtype in ("float32", "bfloat16")
    for more in ("", "--gemma", "--shared 300 --rows 160 --parts 5")
]
"""What `make bench` passes."""
NAMES = ("utility", "degraded")
Rows = list[dict[str, Any]]


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


@dataclass(frozen=True, slots=True)
class Products:
    """The linear layers of a model without adapters, on as many tokens as ours reads, in batches like its own.

    Attributes:
        layers: the layers.
        head: what predicts.
        inputs: numbers for each width of an input, made beforehand.
        budget: padded tokens of a batch.
        shares: whether a beginning that rows share is read once.
    """

    layers: list[torch.nn.Linear]
    head: torch.nn.Linear
    inputs: dict[int, torch.Tensor]
    budget: int
    shares: bool

    @classmethod
    def of(cls, model: Any, batch_tokens: int) -> Products:
        """Those of a model."""
        head, budget = model.get_output_embeddings(), batch_budget(model, batch_tokens)
        layers = [layer for layer in model.modules() if type(layer) is torch.nn.Linear and layer is not head]
        widths = {layer.in_features for layer in [*layers, head]}
        inputs = {width: torch.randn(budget, width).to(model.dtype) for width in widths}
        return cls(layers, head, inputs, budget, can_share(model))

    def batches(self, rows: Rows) -> Iterator[tuple[int, int]]:
        """Of each batch: tokens read, and predicted."""
        texts = distinct_texts(rows, merge=self.shares)
        for group in beginnings(texts, self.budget // 4) if self.shares else [Group(tuple(texts), 0)]:
            if group.shared:
                yield group.shared, int(group.texts[0].response_mask[: group.shared + 1].sum())
            lengths = [len(text.input_ids) - 1 - group.shared for text in group.texts]
            predicted = [int(text.response_mask[group.shared + 1 :].sum()) for text in group.texts]
            for batch in plan_batches(lengths, self.budget):
                yield sum(lengths[i] for i in batch), sum(predicted[i] for i in batch)

    @torch.inference_mode()
    def __call__(self, rows: Rows) -> None:
        """Multiply."""
        for read, predicted in self.batches(rows):
            for layer in self.layers:
                layer(self.inputs[layer.in_features][:read])
            for start in range(0, predicted, 256):
                self.head(self.inputs[self.head.in_features][: min(256, predicted - start)])


def timed(ways: Mapping[str, Callable[[Rows], Any]], rows: Rows, names: Sequence[str]) -> dict[str, Any]:
    """Seconds of each way for some rows, in the order of ``names``, and how far what they give is apart, in nats."""
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    seconds, given = {}, {}
    for name in names:
        begin = clock()
        given[name] = ways[name](rows)
        seconds[name] = clock() - begin
    floor = ways.get("products")
    one, other = (given[name] for name in ways if name != "products")
    return {
        "rows": len(rows),
        "tokens": sum(len(row["input_ids"]) for row in rows),
        "response_tokens": sum(sum(row["response_mask"]) for row in rows),
        "read": sum(read for read, _ in floor.batches(rows)) if isinstance(floor, Products) else None,
        "clock": clock.__name__,
        "seconds": seconds,
        "apart": max(float(np.abs(a - b).max()) for a, b in zip(one, other, strict=True)),
    }


def in_turns(ways: Mapping[str, Callable[[Rows], Any]], rows: Rows, parts: int, results: Results) -> None:
    """Measure each part of the rows that was not measured before."""
    size = -(-len(rows) // parts)
    cases = {f"rows {start} to {start + size}": rows[start : start + size] for start in range(0, len(rows), size)}
    if cases.keys() - results.cases.keys():
        for way in ways.values():
            way(rows[:2])  # first calls choose kernels and fill pages
    for number, (case, part) in enumerate(cases.items()):
        # Who goes first changes, for a part may find the machine quicker at one of its ends.
        results.measure(case, partial(timed, ways, part, list(ways)[:: 1 if number % 2 == 0 else -1]))


def begun_alike(rows: Rows, shared: int, own: int) -> Rows:
    """Rows that begin with the same ``shared`` tokens, each with ``own`` of its own, the last half a response."""
    tokens = [token for row in rows for token in row["input_ids"]]
    beginning, rest = tokens[:shared], tokens[shared:]
    mask = [False] * (shared + own // 2) + [True] * (own - own // 2)
    pieces = [rest[start : start + own] for start in range(0, len(rest) - own + 1, own)]
    return [{"input_ids": beginning + piece, "response_mask": mask} for piece in pieces[: len(rows)]]


def model_of(args: argparse.Namespace) -> ModelConfig:
    """The model that reads, from its own weights."""
    return ModelConfig(
        **({"name": str(gemma_folder(GEMMA_ROOT))} if args.gemma else {}), dtype=args.dtype, device="cpu"
    )


def file_name(what: str, args: argparse.Namespace) -> str:
    """Of the results: those of other models, dtypes and kinds of processors stay beside them."""
    return here("-".join([what, *(["gemma"] if args.gemma else []), args.dtype]))


def begin(args: argparse.Namespace) -> tuple[Base, Rows]:
    """The base and the rows."""
    base = open_base(model_of(args))
    conversations = [
        {"messages": [{"role": "user", "content": row["question"]}, {"role": "assistant", "content": row["answer"]}]}
        for row in itertools.islice(public_records("gsm8k_train"), args.rows)
    ]
    rows: Rows = [
        {key: row[key] for key in ("input_ids", "response_mask")}
        for row in tosslm.tokenize_rows(conversations, base.tokenizer)
    ]
    return base, rows


def measure(args: argparse.Namespace, results: Results) -> None:
    """All ways on all rows, in turns."""
    base, rows = begin(args)
    with tempfile.TemporaryDirectory() as scratch:
        folders = random_adapters(base, Path(scratch))
        plain, bare = (open_base(model_of(args)).model for _ in range(2))
        plain = PeftModel.from_pretrained(plain, folders["degraded"]).eval()
        with attached_adapters(base, folders) as both:
            both.set_adapter("degraded")
            ours = partial(tosslm.response_losses, both, batch_tokens=args.batch_tokens)
            if args.shared:
                rows = begun_alike(rows, args.shared, args.own)
                ways: dict[str, Callable[[Rows], Any]] = {"ours": ours, "unshared": partial(ours, share=False)}
            else:
                ways = {
                    "authors": lambda part: plain_losses(plain, part, base.tokenizer.pad_token_id),
                    "ours": ours,
                    "products": Products.of(bare, args.batch_tokens),
                }
            in_turns(ways, rows, args.parts, results)


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--rows", type=int, default=500)
    parser.add_argument("--parts", type=int, default=20, help="turns that the ways take")
    parser.add_argument("--batch-tokens", type=int, default=16384)
    parser.add_argument("--gemma", action="store_true", help="Gemma 3 270M, not the built-in SmolLM2-135M-Instruct")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--shared", type=int, default=0, help="tokens that rows begin with in common")
    parser.add_argument("--own", type=int, default=100, help="tokens of each row after those")
    parser.add_argument("--check", action="store_true", help="exit 1 below 1.4 times the authors' speed")
    args = parser.parse_args()
    if left_out(args.dtype):
        return
    quiet_libraries()
    name = file_name("sharing" if args.shared else "scoring", args)
    settings = {key: value for key, value in vars(args).items() if key not in ("check", "publish")}
    results = Results(name, settings, folder_of(parser, args, BENCHED, FOLDER))
    measure(args, results)
    for over in ("unshared",) if args.shared else ("authors", "products"):
        print(f"{over} / ours: " + ", ".join(f"{key} {of:.2f}" for key, of in ratios(results.cases, over).items()))
    print(f"at most {max(case['apart'] for case in results.cases.values()):.1e} nats apart")
    if args.check and ratios(results.cases, "authors")["median"] < 1.4:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
