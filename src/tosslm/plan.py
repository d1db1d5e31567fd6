"""What a run will take, before it takes it: data checked, time, memory and disk of each stage expected."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

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
from tosslm.model.proxy import Proxy, ProxyCounts, open_proxy
from tosslm.model.speed import Shape, described, expected_speed, measured_speed, shape_of
from tosslm.progress import Reporter
from tosslm.runs.layout import SETS
from tosslm.runs.ranking import check_held_out
from tosslm.tracking import check_trackers

_ACTIVATIONS_PER_LAYER = 34
"""Bytes a token and hidden unit that a layer keeps for its backward pass, 16 bit (arXiv 2205.05198, eq. 1)."""


def make_plan(config: Config, *, measure: bool, reporter: Reporter) -> dict[str, Any]:
    """Validate config and data and say what each stage is expected to take. Loads no weights.

    Args:
        config: the config.
        measure: time a few layers of the model's shape, with random weights, instead of one matrix product.
        reporter: where progress goes.

    Returns:
        ``sets`` (counts), ``bad_rows``, ``model``, ``speed`` (tokens a second), ``proxy`` where there is one,
        ``stages`` (seconds, bytes), and what ``before_run`` tells.

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
    proxy = open_proxy(config, base)
    sets: dict[str, SetCounts] = {}
    of_proxy = {name: ProxyCounts() for name in SETS}
    bad_rows: list[dict[str, str]] = []
    for name in SETS:
        sets[name] = SetCounts()
        rows = _good_rows(config, name, tokenizer, sets[name], bad_rows)
        for _ in proxy.rows(rows, config.data.turns, of_proxy[name]) if proxy else rows:
            pass
        if not sets[name].rows and not sets[name].bad:
            raise InputError(
                f"data.{name}: {getattr(config.data, name).path} has no row; name a file with rows in it"
            )
    if method_of(config).builds_on != "data":
        check_held_out(config, {name: counts.rows + counts.bad for name, counts in sets.items()})
    if measure:
        reporter.say("timing two layers of the model's shape with random weights")
    own = _reader(base, sets, measure)
    references = _reader(proxy.base, of_proxy, measure) if proxy else own
    _check_fit(config, base, own.model)
    check_targets(references.model, config.references.lora.target_modules, "references.lora.target_modules")
    if proxy and proxy.base.adapter_folder:
        check_adapter_fits(references.model, proxy.base.adapter_folder, proxy.base.keys.adapter)
    return {
        "sets": {name: {key: getattr(counts, key) for key in counts.__slots__} for name, counts in sets.items()},
        "bad_rows": bad_rows,
        "model": {
            "name": config.model.name,
            "parameters": own.shape.parameters,
            "dtype": str(choose_dtype(config.model.dtype, choose_device(config.model.device))).removeprefix("torch."),
            "device": str(choose_device(config.model.device)),
            "response_mask": tokenizer.method,
        },
        "speed": {"measured": measure, **_rounded(own.speed)},
        **({"proxy": _of_proxy(config, proxy, references, of_proxy)} if proxy else {}),
        "stages": [
            stage
            for stage in _stages(config, sets, own, references, evaluation_tokens(config, tokenizer, sets))
            if stage["stage"] not in left_out
        ],
        **before_run(config, own_choice=method_of(config).choose is not None),
    }


@dataclass(frozen=True, slots=True)
class _Reader:
    """A model without weights, what it reads of each set, and how fast."""

    model: Any
    sets: Mapping[str, SetCounts | ProxyCounts]
    shape: Shape
    speed: dict[str, float]


def _reader(base: Base, sets: Mapping[str, SetCounts | ProxyCounts], measure: bool) -> _Reader:
    model_config, model = described(base)
    shape = shape_of(base, model_config, model)
    mean_length = max((counts.tokens // counts.rows for counts in sets.values() if counts.rows), default=1)
    speed = measured_speed(base, model_config, shape, mean_length) if measure else expected_speed(base, shape)
    return _Reader(model, sets, shape, speed)


def _rounded(speed: Mapping[str, float]) -> dict[str, float]:
    return {key: round(value, 1) for key, value in speed.items()}


def _of_proxy(config: Config, proxy: Proxy, reader: _Reader, sets: Mapping[str, ProxyCounts]) -> dict[str, Any]:
    return {
        "name": config.references.model,
        "adapter": config.references.adapter,
        "parameters": reader.shape.parameters,
        "chat_template": proxy.template_told,
        "speed": _rounded(reader.speed),
        "sets": {name: asdict(counts) for name, counts in sets.items()},
    }


def _good_rows(
    config: Config, name: str, tokenizer: RowTokenizer, counts: SetCounts, bad_rows: list[dict[str, str]]
) -> Iterator[dict[str, Any]]:
    source = getattr(config.data, name)
    for row in prepared_rows(source, tokenizer, counts, max_row_bytes=config.data.max_row_bytes):
        if isinstance(row, BadRow):
            bad_rows.append({"set": name, "origin": row.origin, "reason": row.reason, "remedy": row.remedy})
        else:
            yield row


def _left_out(method: Method) -> tuple[str, ...]:
    """The stages that a method has no use for."""
    of_scores = ("references", "score", "refine") if method.builds_on == "data" else ()
    return of_scores + (() if method.trains else ("select", "finetune", "diagnose", "report"))


def _check_fit(config: Config, base: Base, model: Any) -> None:
    """Names of layers, and adapters, against the model; its weights are on the meta device."""
    check_targets(model, config.finetune.lora.target_modules, "finetune.lora.target_modules")
    if base.adapter_folder:
        check_adapter_fits(model, base.adapter_folder, "model.adapter")
    for name, folder in config.diagnosis.adapters.items():
        check_adapter(Path(folder))
        check_adapter_fits(model, Path(folder), f"diagnosis.adapters.{name}")


def _stages(
    config: Config, sets: Mapping[str, SetCounts], own: _Reader, references: _Reader, evaluated: int
) -> list[dict[str, Any]]:
    custom, harmful, utility = (sets[name] for name in SETS)
    shape, speed = own.shape, own.speed
    weights = shape.parameters * shape.bytes_per_value
    in_context = 4 * custom.response_tokens if config.selection.kind != "token" else 0
    reading_memory = weights + _scoring_bytes(config, custom, shape)
    return [
        _stage("data", 0, 0, 0.5e9, 8 * sum(counts.tokens for counts in sets.values()), speed),
        *_reference_stages(config, references, custom.response_tokens, proxied=references is not own),
        _stage("select", 0, 0, 0.5e9, custom.response_tokens // 8 + in_context, speed),
        _stage(
            "finetune",
            custom.tokens * config.finetune.epochs if config.finetune.anchors else 0,
            custom.tokens * config.finetune.epochs,
            weights + _training_bytes(config.finetune, custom, shape),
            _adapter_bytes(config.finetune, shape),
            speed,
        ),
        _stage("evaluate", evaluated, 0, reading_memory, 1e6 if evaluated else 0, speed),
        _stage("diagnose", _diagnosis_tokens(config, harmful, utility), 0, reading_memory, 1e6, speed),
        _stage("report", 0, 0, 0.5e9 + 30 * custom.response_tokens, min(16 * custom.response_tokens, 25e6), speed),
    ]


def _reference_stages(config: Config, by: _Reader, scored: int, *, proxied: bool) -> list[dict[str, Any]]:
    """What the references' model does; ``scored`` are the base's response tokens of the custom set."""
    custom, harmful, utility = (by.sets[name] for name in SETS)
    rounds, share, epochs = config.refinement.rounds, config.references.holdout, config.references.epochs
    joined = min(config.refinement.samples_per_round, custom.rows) * (custom.tokens / max(custom.rows, 1))
    trained = (1 - share) * (harmful.tokens + utility.tokens) * epochs
    retrained = sum(((1 - share) * harmful.tokens + round_ * joined) * epochs for round_ in range(1, rounds + 1))
    held_out = share * (harmful.tokens + utility.tokens)
    weights = by.shape.parameters * by.shape.bytes_per_value
    training_memory = weights + _training_bytes(config.references, custom, by.shape)
    scoring_memory = weights + _scoring_bytes(config, custom, by.shape)
    scores, adapter = 12 * scored, _adapter_bytes(config.references, by.shape)
    rows = 8 * sum(counts.tokens for counts in by.sets.values()) if proxied else 0
    read, read_again = 2 * (custom.tokens + held_out), rounds * (custom.tokens + held_out)
    return [
        _stage("references", 0, trained, training_memory, 2 * adapter + rows, by.speed),
        _stage("score", read, 0, scoring_memory, scores, by.speed),
        _stage("refine", read_again, retrained, training_memory, rounds * (scores + adapter), by.speed),
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


def _training_bytes(settings: TrainingConfig, custom: SetCounts | ProxyCounts, shape: Shape) -> float:
    tokens = settings.micro_batch_size * custom.longest
    layers = 1 + math.sqrt(shape.layers) if settings.gradient_checkpointing else shape.layers
    activations = tokens * shape.hidden * layers * _ACTIVATIONS_PER_LAYER * shape.bytes_per_value / 2
    return activations + 4 * _adapter_bytes(settings, shape) + 3 * LOGITS_BYTES


def _scoring_bytes(config: Config, custom: SetCounts | ProxyCounts, shape: Shape) -> float:
    tokens = max(config.scoring.batch_tokens, custom.longest)
    return tokens * shape.hidden * 20 * shape.bytes_per_value + 2 * LOGITS_BYTES


def _adapter_bytes(settings: TrainingConfig, shape: Shape) -> int:
    modules = 7 if settings.lora.target_modules == "all-linear" else len(settings.lora.target_modules)
    return 4 * 2 * settings.lora.r * shape.hidden * shape.layers * modules
