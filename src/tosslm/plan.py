"""What a run will take, before it takes it: data checked, time, memory, disk and money of each stage expected."""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from tosslm.config import Config
from tosslm.data.habits import template_habits
from tosslm.data.tokenize import RowTokenizer
from tosslm.errors import InputError
from tosslm.evaluation.workload import Asked, evaluation_work
from tosslm.findings.apart import shared_told
from tosslm.findings.found import before_run
from tosslm.findings.warmed import warmup_expected
from tosslm.methods import method_of
from tosslm.methods.method import Method
from tosslm.model.base import Base, open_base
from tosslm.model.device import choose_device, choose_dtype
from tosslm.model.fit import check_adapter_fits, check_targets
from tosslm.model.folders import check_adapter
from tosslm.model.losses import budget_on
from tosslm.model.memory import device_memory
from tosslm.model.proxy import Proxy, ProxyCounts, open_proxy
from tosslm.planning.reader import Looking, Reader
from tosslm.planning.sample import RowSample
from tosslm.planning.sets import SetsRead, mended_rows, read_sets
from tosslm.planning.sizes import stage_bytes
from tosslm.planning.stages import assumed, assumed_of_quantized, stage_records, total
from tosslm.planning.work import Sets, anchored_rows, begun, stage_work
from tosslm.progress import Reporter
from tosslm.runs.decisions import check_decisions
from tosslm.runs.ranking import check_held_out
from tosslm.stages.before import check_before
from tosslm.stages.data import data_print
from tosslm.stages.engine import check_engine
from tosslm.text import memory_size


def make_plan(config: Config, *, measure: bool, reporter: Reporter, price: float | None = None) -> dict[str, Any]:
    """Validate config and data and say what each stage is expected to take. Loads no weights.

    Args:
        config: the config.
        measure: time a few layers of the model's shape, with random weights, instead of one matrix product.
        reporter: where progress goes.
        price: of an hour of this device, in any currency.

    Returns:
        ``sets`` (counts), ``bad_rows``, ``utility_told`` where the custom set stands in for a utility set, ``model``,
        ``speed`` (tokens a second, and the seconds that measuring them took), ``proxy`` where there is one,
        ``stages`` and their ``total`` (seconds, bytes, with a price ``cost``), ``price``, ``assumed``, and what
        ``before_run`` tells.

    Raises:
        InputError: a file or the model cannot be read, a tracker or what is to score is missing, or the price is no
            number from 0.
    """
    if price is not None and not 0 <= price < float("inf"):
        raise InputError(f"--price: {price:g} is no price of an hour; give a number from 0, such as 2.5")
    method = method_of(config)
    scored = method.builds_on != "data"
    check_before(config, method, {"references", "evaluate"} if scored else {"evaluate"})
    if scored:
        check_engine(config)
    start = time.perf_counter()
    base = open_base(config.model)
    opened = time.perf_counter() - start
    tokenizer = base.row_tokenizer(config.data)
    proxy = open_proxy(config, base) if scored else None
    read = read_sets(config, tokenizer, proxy)
    whole = not read.bad_rows or config.data.on_bad_row == "skip"  # else bad rows are what has to be told first
    if config.selection.overrides and whole:
        check_decisions(read.decisions, read.decided, config.selection.overrides)
    if method.suits and whole:
        method.suits(config, {name: asdict(counts) for name, counts in read.sets.items()})
    if scored:
        check_held_out(config, mended_rows(config, read))
    asked = evaluation_work(config, tokenizer, read.sets)
    there = all(counts.rows for counts in read.sets.values())
    looking = Looking(config, measure and there, read.seconds_a_token, asked.steps > 0, reporter.say)
    own = looking.at(base, _rows(read.samples), opened, refers=proxy is None)
    references = looking.at(proxy.base, _rows(read.of_proxy), opened, trains=False) if proxy else own
    _check_fit(config, base, own.model, trains=method.trains)
    if scored:
        check_targets(references.model, config.references.lora.target_modules, "references.lora.target_modules")
    if proxy and proxy.base.adapter_folder:
        check_adapter_fits(references.model, proxy.base.adapter_folder, proxy.base.keys.adapter)
    own_choice = method.choose is not None
    told = before_run(config, data_print(config, base), own_choice=own_choice, scored=scored, trains=method.trains)
    told["warnings"] += template_habits(tokenizer) + shared_told(read.shared.counts())
    rows = {name: counts.rows + counts.bad for name, counts in read.sets.items()}
    told["warnings"] += warmup_expected(config, rows, references=scored, trains=method.trains)
    expected = _expected(config, read, asked, own, references, price)
    told["warnings"] += _too_large(expected["stages"], choose_device(config.model.device))
    return {
        "sets": {name: {key: getattr(counts, key) for key in counts.__slots__} for name, counts in read.sets.items()},
        "bad_rows": read.bad_rows,
        **({"utility_told": _told_of_utility(config, read)} if config.data.utility.of_custom else {}),
        "model": _of_model(config, own, tokenizer),
        "speed": {"measured": looking.measure, **own.speed},
        **({"proxy": _of_proxy(config, proxy, references, read.proxy_sets)} if proxy else {}),
        **expected,
        **told,
    }


def _rows(samples: dict[str, RowSample]) -> dict[str, list[dict[str, Any]]]:
    return {name: sample.rows for name, sample in samples.items()}


def _expected(
    config: Config, read: SetsRead, asked: Asked, own: Reader, references: Reader, price: float | None
) -> dict[str, Any]:
    """What each stage is expected to take, and what that rests on."""
    method, custom, proxied = method_of(config), read.sets["custom"], references is not own
    sets: Sets = read.sets
    by: Sets = read.proxy_sets if proxied else sets
    left_out = _left_out(method)
    toward = method.builds_on != "data" and not proxied
    work = stage_work(
        config,
        sets,
        by,
        asked,
        anchored=anchored_rows(config, custom),
        diagnosed=2 + toward + len(config.diagnosis.adapters),
        proxied=proxied,
        trains=method.trains,
    )
    budget = budget_on(choose_device(config.model.device), config.scoring.batch_tokens)
    sizes = stage_bytes(
        config,
        sets,
        by,
        own.shape,
        references.shape,
        evaluates=asked.read > 0,
        batch_tokens=budget,
        proxied=proxied,
    )
    kept = begun(one for one in work if one.stage not in left_out)
    stages = stage_records(kept, own.pace, references.pace, sizes, price)
    own_work = method.name if method.changes_training or method.choose else None
    return {
        "stages": stages,
        "total": total(stages),
        **({} if price is None else {"price": price}),
        "assumed": [
            *assumed(config, custom, own.pace, left_out=left_out, own_work=own_work),
            *assumed_of_quantized(config, own.shape),
        ],
    }


def _too_large(stages: list[dict[str, Any]], device: torch.device) -> list[str]:
    """That a stage is expected to take more memory than the device has."""
    there = device_memory(device)
    names = [stage["stage"] for stage in stages if there is not None and stage["memory_bytes"] > there]
    if there is None or not names:
        return []
    most = max(stage["memory_bytes"] for stage in stages)
    return [
        f"More memory than the {memory_size(there)} that {device.type} holds: {', '.join(names)} (up to "
        f"{memory_size(most)}). Lower micro_batch_size or data.max_length, set gradient_checkpointing: true, or see "
        "docs/scaling.md, Memory."
    ]


def _told_of_utility(config: Config, read: SetsRead) -> str:
    """What becomes of the custom set where it stands in for a utility set."""
    rows, share = read.sets["utility"].rows, config.references.holdout
    return (
        f"utility: {rows:,} rows of the custom set stand in, {config.data.utility.trim:.0%} of which are trimmed "
        f"away; a share of {share:g} is held out, and is not among the custom rows, which are fine-tuned on"
    )


def _of_model(config: Config, own: Reader, tokenizer: RowTokenizer) -> dict[str, Any]:
    device = choose_device(config.model.device)
    return {
        "name": config.model.name,
        "parameters": own.shape.parameters,
        "dtype": str(choose_dtype(config.model.dtype, device)).removeprefix("torch."),
        "device": str(device),
        **({"quantize": config.model.quantize} if config.model.quantize else {}),
        "response_mask": tokenizer.method,
    }


def _of_proxy(config: Config, proxy: Proxy, reader: Reader, sets: dict[str, ProxyCounts]) -> dict[str, Any]:
    return {
        "name": config.references.model,
        "adapter": config.references.adapter,
        "parameters": reader.shape.parameters,
        "chat_template": proxy.template_told,
        "speed": reader.speed,
        "sets": {name: asdict(counts) for name, counts in sets.items()},
    }


def _left_out(method: Method) -> tuple[str, ...]:
    """The stages that a method has no use for."""
    of_scores = ("references", "score", "refine") if method.builds_on == "data" else ()
    return of_scores + (() if method.trains else ("select", "finetune", "diagnose", "report"))


def _check_fit(config: Config, base: Base, model: Any, *, trains: bool) -> None:
    """Names of layers, and adapters, against the model; its weights are on the meta device."""
    if base.adapter_folder:
        check_adapter_fits(model, base.adapter_folder, "model.adapter")
    if not trains:
        return
    check_targets(model, config.finetune.lora.target_modules, "finetune.lora.target_modules")
    for name, folder in config.diagnosis.adapters.items():
        check_adapter(Path(folder))
        check_adapter_fits(model, Path(folder), f"diagnosis.adapters.{name}")
