"""What a run will take, before it takes it: data checked, time, memory and disk of each stage expected."""

from __future__ import annotations

import copy
import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from tosslm.config import Config, TrainingConfig
from tosslm.data.rows import BadRow
from tosslm.data.sets import SetCounts, prepared_rows
from tosslm.data.tokenize import RowTokenizer
from tosslm.door import check_overrides, check_places
from tosslm.errors import InputError
from tosslm.evaluation.workload import evaluation_tokens
from tosslm.findings.found import before_run
from tosslm.methods import method_of
from tosslm.methods.method import Method
from tosslm.model.base import Base, check_adapter, choose_device, choose_dtype, open_base
from tosslm.model.fit import check_adapter_fits, check_targets
from tosslm.model.head import LOGITS_BYTES
from tosslm.progress import Reporter
from tosslm.runs.layout import SETS
from tosslm.tracking import check_trackers

_EFFICIENCY = {"cpu": 0.6, "cuda": 0.35, "mps": 0.3}
"""Share of a plain matrix product's speed that a whole forward pass reaches; rough, --measure replaces it."""
_TRAINING_PASSES = 2.3
"""A LoRA training step in forward passes: activations' gradients, but none of the frozen weights."""
_ACTIVATIONS_PER_LAYER = 34
"""Bytes a token and hidden unit that a layer keeps for its backward pass, 16 bit (arXiv 2205.05198, eq. 1)."""


@dataclass(frozen=True, slots=True)
class Shape:
    """What of a model decides time and memory."""

    parameters: int
    layers: int
    hidden: int
    vocabulary: int
    bytes_per_value: int

    @property
    def body(self) -> int:
        """Parameters that every token passes through; the embedding is looked up, the head counts by itself."""
        return self.parameters - self.hidden * self.vocabulary


def make_plan(config: Config, *, measure: bool, reporter: Reporter) -> dict[str, Any]:
    """Validate config and data and say what each stage is expected to take. Loads no weights.

    Args:
        config: the config.
        measure: time a few layers of the model's shape, with random weights, instead of one matrix product.
        reporter: where progress goes.

    Returns:
        ``sets`` (counts), ``bad_rows``, ``model``, ``speed`` (tokens a second), ``stages`` (seconds, bytes),
        and what ``before_run`` tells.

    Raises:
        InputError: a file or the model cannot be read, or a tracker is missing.
    """
    check_trackers(config.report_to)
    check_places(config)
    check_overrides(config)
    left_out = _left_out(method_of(config))
    base = open_base(config.model)
    tokenizer = RowTokenizer(
        base.tokenizer, max_length=config.data.max_length, turns=config.data.turns, limits=base.limits
    )
    sets: dict[str, SetCounts] = {}
    bad_rows: list[dict[str, str]] = []
    for name in SETS:
        sets[name] = SetCounts()
        for row in prepared_rows(
            getattr(config.data, name), tokenizer, sets[name], max_row_bytes=config.data.max_row_bytes
        ):
            if isinstance(row, BadRow):
                bad_rows.append({"set": name, "origin": row.origin, "reason": row.reason, "remedy": row.remedy})
        if not sets[name].rows and not sets[name].bad:
            raise InputError(
                f"data.{name}: {getattr(config.data, name).path} has no row; name a file with rows in it"
            )
    trusted = config.model.trust_remote_code
    try:
        model_config = AutoConfig.from_pretrained(base.folder, trust_remote_code=trusted)
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(model_config, trust_remote_code=trusted)
    except Exception as error:  # whatever a model's code stumbles over
        raise InputError(
            f"model.name: {config.model.name}: no model can be made of its config.json ({type(error).__name__}: "
            f"{error}); fetch it anew"
        ) from error
    _check_fit(config, base, model)
    shape = _shape(config, model_config, model)
    lengths = [counts.tokens // counts.rows for counts in sets.values() if counts.rows]
    mean_length = max(lengths, default=1)
    if measure:
        reporter.say("timing two layers of the model's shape with random weights")
        speed = _measured_speed(base, config, model_config, shape, mean_length)
    else:
        speed = _expected_speed(config, shape)
    return {
        "sets": {name: {key: getattr(counts, key) for key in counts.__slots__} for name, counts in sets.items()},
        "bad_rows": bad_rows,
        "model": {
            "name": config.model.name,
            "parameters": shape.parameters,
            "dtype": str(choose_dtype(config.model.dtype, choose_device(config.model.device))).removeprefix("torch."),
            "device": str(choose_device(config.model.device)),
            "response_mask": tokenizer.method,
        },
        "speed": {"measured": measure, **{key: round(value, 1) for key, value in speed.items()}},
        "stages": [
            stage
            for stage in _stages(config, sets, shape, speed, evaluation_tokens(config, tokenizer, sets))
            if stage["stage"] not in left_out
        ],
        **before_run(config, own_choice=method_of(config).choose is not None),
    }


def _left_out(method: Method) -> tuple[str, ...]:
    """The stages that a method has no use for."""
    of_scores = ("references", "score", "refine") if method.builds_on == "data" else ()
    return of_scores + (() if method.trains else ("select", "finetune", "diagnose", "report"))


def _check_fit(config: Config, base: Base, model: Any) -> None:
    """Names of layers, and adapters, against the model; its weights are on the meta device."""
    for key in ("references", "finetune"):
        settings: TrainingConfig = getattr(config, key)
        check_targets(model, settings.lora.target_modules, f"{key}.lora.target_modules")
    if base.adapter_folder:
        check_adapter_fits(model, base.adapter_folder, "model.adapter")
    for name, folder in config.diagnosis.adapters.items():
        check_adapter(Path(folder))
        check_adapter_fits(model, Path(folder), f"diagnosis.adapters.{name}")


def _shape(config: Config, model_config: Any, model: Any) -> Shape:
    dtype = choose_dtype(config.model.dtype, choose_device(config.model.device))
    text = model_config.get_text_config()
    return Shape(
        sum(parameter.numel() for parameter in model.parameters()),
        text.num_hidden_layers,
        text.hidden_size,
        text.vocab_size,
        dtype.itemsize,
    )


def _expected_speed(config: Config, shape: Shape) -> dict[str, float]:
    device = choose_device(config.model.device)
    flops = _matmul_flops(device, choose_dtype(config.model.dtype, device)) * _EFFICIENCY.get(device.type, 0.3)
    reading = flops / (2 * shape.body + shape.hidden * shape.vocabulary)
    return {"reading": reading, "training": reading / _TRAINING_PASSES}


def _matmul_flops(device: torch.device, dtype: torch.dtype) -> float:
    size = 1024 if device.type == "cpu" else 8192
    a = torch.randn(size, size, device=device).to(dtype)
    seconds = _seconds(lambda: a @ a, device)
    return 2 * size**3 / seconds


def _seconds(work: Any, device: torch.device) -> float:
    """Median of five runs after one that is not counted."""
    times = []
    for _ in range(6):
        start = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - start)
    return sorted(times[1:])[2]


def _measured_speed(base: Base, config: Config, model_config: Any, shape: Shape, length: int) -> dict[str, float]:
    device = choose_device(config.model.device)
    dtype = choose_dtype(config.model.dtype, device)
    small = copy.deepcopy(model_config)
    layers = min(2, shape.layers)
    small.get_text_config().num_hidden_layers = layers
    if getattr(small.get_text_config(), "layer_types", None):
        small.get_text_config().layer_types = small.get_text_config().layer_types[:layers]
    model = AutoModelForCausalLM.from_config(small, dtype=dtype, trust_remote_code=config.model.trust_remote_code).to(
        device
    )
    length = max(8, min(length, config.data.max_length))
    ids = torch.randint(0, shape.vocabulary, (4, length), device=device)
    body = model.base_model
    head = model.get_output_embeddings()
    model.requires_grad_(False)

    def read() -> None:
        with torch.inference_mode():
            body(input_ids=ids, use_cache=False)

    def read_head() -> None:
        with torch.inference_mode():
            head(torch.zeros(2 * length, shape.hidden, device=device, dtype=dtype))

    def train() -> None:
        # The gradient passes through the frozen layers to their input, as it does to adapters in every layer.
        embedded = model.get_input_embeddings()(ids).requires_grad_()
        body(inputs_embeds=embedded, use_cache=False).last_hidden_state.float().sum().backward()

    scale = shape.layers / layers
    heads = _seconds(read_head, device)
    reading = 4 * length / (_seconds(read, device) * scale + heads)
    training = 4 * length / (_seconds(train, device) * scale + 3 * heads)
    return {"reading": reading, "training": training}


def _stages(
    config: Config, sets: dict[str, SetCounts], shape: Shape, speed: dict[str, float], evaluated: int
) -> list[dict[str, Any]]:
    custom, harmful, utility = (sets[name] for name in SETS)
    rounds = config.refinement.rounds
    joined = min(config.refinement.samples_per_round, custom.rows) * (custom.tokens / max(custom.rows, 1))
    weights = shape.parameters * shape.bytes_per_value
    share = config.references.holdout
    references = (1 - share) * (harmful.tokens + utility.tokens) * config.references.epochs
    retrainings = sum(
        ((1 - share) * harmful.tokens + round_ * joined) * config.references.epochs for round_ in range(1, rounds + 1)
    )
    held_out = share * (harmful.tokens + utility.tokens)
    scores = 12 * custom.response_tokens
    in_context = 4 * custom.response_tokens if config.selection.kind != "token" else 0
    adapter = _adapter_bytes(config.references, shape)
    scoring_memory = weights + _scoring_bytes(config, custom, shape)
    return [
        _stage("data", 0, 0, 0.5e9, 8 * sum(counts.tokens for counts in sets.values()), speed),
        _stage(
            "references",
            0,
            references,
            weights + _training_bytes(config.references, custom, shape),
            2 * adapter,
            speed,
        ),
        _stage("score", 2 * (custom.tokens + held_out), 0, scoring_memory, scores, speed),
        _stage(
            "refine",
            rounds * (custom.tokens + held_out),
            retrainings,
            weights + _training_bytes(config.references, custom, shape),
            rounds * (scores + adapter),
            speed,
        ),
        _stage("select", 0, 0, 0.5e9, custom.response_tokens // 8 + in_context, speed),
        _stage(
            "finetune",
            custom.tokens * config.finetune.epochs if config.finetune.anchors else 0,
            custom.tokens * config.finetune.epochs,
            weights + _training_bytes(config.finetune, custom, shape),
            _adapter_bytes(config.finetune, shape),
            speed,
        ),
        _stage("evaluate", evaluated, 0, scoring_memory, 1e6 if evaluated else 0, speed),
        _stage("diagnose", _diagnosis_tokens(config, harmful, utility), 0, scoring_memory, 1e6, speed),
        _stage("report", 0, 0, 0.5e9 + 30 * custom.response_tokens, min(16 * custom.response_tokens, 25e6), speed),
    ]


def _diagnosis_tokens(config: Config, *sets: SetCounts) -> float:
    """Held-out rows under the base, the model, the degraded reference and other adapters."""
    share, most = config.references.holdout, config.diagnosis.rows
    measured = sum(min(share * counts.rows, most) * counts.tokens / max(counts.rows, 1) for counts in sets)
    return (3 + len(config.diagnosis.adapters)) * measured


def _stage(
    name: str, read: float, trained: float, memory: float, disk: float, speed: dict[str, float]
) -> dict[str, Any]:
    seconds = read / speed["reading"] + trained / speed["training"]
    return {
        "stage": name,
        "tokens_read": round(read),
        "tokens_trained": round(trained),
        "seconds": float(f"{seconds:.3g}"),  # a set of a few rows takes less than a tenth of one
        "memory_bytes": round(memory),
        "disk_bytes": round(disk),
    }


def _training_bytes(settings: TrainingConfig, custom: SetCounts, shape: Shape) -> float:
    tokens = settings.micro_batch_size * custom.longest
    layers = 1 + math.sqrt(shape.layers) if settings.gradient_checkpointing else shape.layers
    activations = tokens * shape.hidden * layers * _ACTIVATIONS_PER_LAYER * shape.bytes_per_value / 2
    return activations + 4 * _adapter_bytes(settings, shape) + 3 * LOGITS_BYTES


def _scoring_bytes(config: Config, custom: SetCounts, shape: Shape) -> float:
    tokens = max(config.scoring.batch_tokens, custom.longest)
    return tokens * shape.hidden * 20 * shape.bytes_per_value + 2 * LOGITS_BYTES


def _adapter_bytes(settings: TrainingConfig, shape: Shape) -> int:
    modules = 7 if settings.lora.target_modules == "all-linear" else len(settings.lora.target_modules)
    return 4 * 2 * settings.lora.r * shape.hidden * shape.layers * modules
