"""Several methods on the same data, with the same budget and the same seeds: one table.

A method is the pipeline with one step exchanged (see `tosslm.methods`). Data, references and scores of a seed are
made once, in a run that all methods of that seed take over; each then has a run folder of its own, which resumes as
any other.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from tosslm.config import Config, load_config
from tosslm.data.sets import source_checksums
from tosslm.errors import InputError, TosslmError
from tosslm.evaluation.measurement import check_evaluation, read_record, read_samples
from tosslm.evaluation.measures import Samples
from tosslm.evaluation.pooling import pool, pooled_differences, pooled_intervals
from tosslm.files import write_json
from tosslm.methods import find_baselines
from tosslm.methods.bilevel import selector_weights
from tosslm.methods.material import load_material, write_mask
from tosslm.methods.method import Baseline
from tosslm.model.base import Base, open_base
from tosslm.pipeline import STAGES, Method, carry_out
from tosslm.progress import Reporter, SilentReporter
from tosslm.runs.folder import RunFolder, Step
from tosslm.statistics import Interval
from tosslm.tracking import check_trackers
from tosslm.training.labels import training_row

UNTRAINED, RIVAL, ORACLE = "base", "sft", "oracle"
_REFUSALS = "refusal_rate"
SeededSamples = Mapping[int | None, Samples]
_RESULTS_FORMAT = 1
_OWN_STEPS = ("selection", "model", "evaluation/")


def compare(
    config: Config, methods: Sequence[str], *, seeds: Sequence[int] | None = None, reporter: Reporter | None = None
) -> dict[str, Any]:
    """Train and evaluate methods, and write ``compare/results.json`` in the run folder.

    Args:
        config: the config; its section ``evaluation`` says what is measured.
        methods: names of ``tosslm.methods.REGISTRY``. A judge compares with standard SFT, which then comes along.
        seeds: of everything random, references included; None is the config's own.
        reporter: where progress goes.

    Returns:
        What was written: ``records``, one a method and seed; ``summary``, one a method, over its seeds, with the
        paired differences to standard SFT where that is among the methods; ``failed``, methods and seeds that came to
        nothing, with the reason; ``causes``, where base, standard SFT and the oracle are all among the methods: what
        share of harmful prompts the oracle, which has seen no harm, refuses less than the base (``forgotten``), and
        SFT less than the oracle (``learnt``).

    Raises:
        InputError: config or methods are wrong.
        TosslmError: the work that methods share failed.
    """
    reporter = reporter or SilentReporter()
    baselines = find_baselines([*([RIVAL] if config.evaluation.judge else []), *methods])
    if not config.evaluation.asks:
        raise InputError("compare: nothing to measure; name prompts under evaluation in the config")
    check_evaluation(config.evaluation)
    check_trackers(config.report_to)
    for baseline in baselines:
        baseline.check(config)
        _changed(config, baseline.overrides(config), config.seed, Path(config.run_dir))
    base = open_base(config.model)
    root = Path(config.run_dir) / "compare"
    folders: dict[str, dict[int | None, Path]] = {baseline.name: {} for baseline in baselines}
    failed: list[dict[str, Any]] = []
    for seed in dict.fromkeys(seeds if seeds is not None else [config.seed]):
        left = [baseline for baseline in baselines if baseline.trains or not folders[baseline.name]]
        for variant in _carry_out_seed(config, seed, left, base, root, reporter, failed):
            trained = seed if variant.baseline.trains else None
            folders[variant.baseline.name][trained] = variant.path / "evaluation" / variant.measured
    done = {name: seeded for name, seeded in folders.items() if seeded}
    results = _results(done, config.seed) | {"failed": failed}
    write_json(root / "results.json", results)
    return results


def _carry_out_seed(
    config: Config,
    seed: int,
    baselines: Sequence[Baseline],
    base: Base,
    root: Path,
    reporter: Reporter,
    failed: list[dict[str, Any]],
) -> Iterator[Variant]:
    """The methods of a seed as each is finished; one that fails stops none of the others."""
    shared = _share(config, seed, baselines, base, root, reporter)
    refined = shared
    for baseline in baselines:
        reporter.say(f"{baseline.name}, seed {seed}" if baseline.trains else baseline.name)
        folder = root / baseline.name / (f"seed-{seed}" if baseline.trains else "untrained")
        own = _changed(config, baseline.overrides(config), seed, folder)
        rival = root / RIVAL / f"seed-{seed}" if config.evaluation.judge and baseline.name != RIVAL else None
        variant = Variant(baseline, own, reporter, base=base, rival=rival)
        variant.folder.adopt(refined if baseline.needs == "refine" else shared, skip=_OWN_STEPS)
        try:
            carry_out(variant, variant.stages())
        except TosslmError as error:
            failed.append({"method": baseline.name, "seed": seed, "reason": str(error)})
            reporter.say(f"{baseline.name}, seed {seed}: {error}")
            continue
        if baseline.needs == "refine":
            refined = variant.folder  # the next method with TOSS-Pro's rounds takes them over
        yield variant


def _share(
    config: Config, seed: int, baselines: Sequence[Baseline], base: Base, root: Path, reporter: Reporter
) -> RunFolder:
    """The run of a seed whose data, references and scores all methods take over; the config's own where it can be."""
    folder = Path(config.run_dir) if seed == config.seed else root / "shared" / f"seed-{seed}"
    needed = max((STAGES.index(baseline.needs) for baseline in baselines), default=0)
    method = Method(_changed(config, {}, seed, folder), reporter, base=base)
    carry_out(method, STAGES[: needed + 1])
    return method.folder


def _changed(config: Config, overrides: Mapping[str, Any], seed: int, folder: Path) -> Config:
    settings = [f"{key}={json.dumps(value)}" for key, value in {**overrides, "seed": seed}.items()]
    return load_config(config.model_dump(mode="json"), settings, run_dir=str(folder))


def parse_seeds(text: str | None) -> list[int] | None:
    """Seeds with commas between them; None stays None.

    Raises:
        InputError: one is no number of 32 bits.
    """
    if text is None:
        return None
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not parts or not all(part.isdecimal() and int(part) < 2**32 for part in parts):
        raise InputError(f"--seeds {text!r}: expected numbers from 0 with commas between, such as 0,1,2")
    return [int(part) for part in parts]


class Variant(Method):
    """The method with one step exchanged.

    Args:
        baseline: what is exchanged.
        config: the variant's config.
        reporter: where progress goes.
        base: the frozen base, shared by all variants.
        rival: run folder of the model that a judge compares with; None for none.
    """

    def __init__(
        self, baseline: Baseline, config: Config, reporter: Reporter, *, base: Base, rival: Path | None
    ) -> None:
        super().__init__(config, reporter, base=base)
        self.baseline, self.rival = baseline, rival
        self.measured = "model" if baseline.trains else "base"

    def stages(self) -> Sequence[str]:
        """The stages that this method needs."""
        if not self.baseline.trains:
            return ("data", "evaluate")
        return (*STAGES[: STAGES.index(self.baseline.needs) + 1], "select", "finetune", "evaluate")

    def select(self) -> None:
        """The method's own choice of tokens, where it has one."""
        baseline = self.baseline
        if baseline.keep is None:
            return super().select()
        with_scores = baseline.needs != "data"

        def work(step: Step) -> dict[str, Any]:
            material = load_material(
                self.path,
                self.config,
                with_scores=with_scores,
                with_guard=baseline.asks_guard,
                row_weights=self._row_weights() if baseline.asks_selector else None,
            )
            keep = baseline.keep(material)  # type: ignore[misc]
            folder = self.path / "selection"
            return write_mask(
                baseline, keep, material, data=self.path / "data", folder=folder, step_fingerprint=step.fingerprint
            )

        compared = self.config.compare
        settings: list[Any] = [self.config.selection.discard_fraction, compared.harmful_sources, self.config.seed]
        if baseline.asks_guard and compared.guard:
            settings += [compared.guard.model_dump(), compared.guard_segment]
        if baseline.asks_selector:
            settings += [self.config.references.model_dump(), self.base.identity, *self._safety_parts()]
        inputs = ["data", *(["scores/round-0"] if with_scores else [])]
        return self._do("selection", [baseline.name, baseline.version, *settings], inputs, work)

    def training_rows(self) -> Iterator[dict[str, Any]]:
        """The custom set's rows, and what the method mixes in."""
        return chain(super().training_rows(), self._extra_rows())

    def training_parts(self) -> list[Any]:
        """What the training depends on beyond settings, data and selection."""
        parts: list[Any] = [self.baseline.name, self.baseline.version] if self.baseline.changes_training else []
        if self.baseline.extra_rows and self.config.compare.safety:
            parts += [*self._safety_parts(), self.config.compare.safety_share]
        return parts

    def token_loss(self) -> Any:
        """The method's own loss of a token, where it has one."""
        return self.baseline.token_loss

    def evaluate(self) -> None:
        """The method's model is measured, or the base where it trains none."""
        if not self.baseline.trains:
            self._evaluate("base", None, [], nullcontext)
            return
        rival = self.rival / "evaluation" / "model" if self.rival else None
        self._evaluate("model", self.config.seed, ["model"], self._tuned, rival=rival)

    def _row_weights(self) -> np.ndarray:
        return selector_weights(self.path / "data", self.config, self.base, self.tokenizer, self.reporter)

    def _safety_parts(self) -> list[Any]:
        safety = self.config.compare.safety
        return [safety.model_dump(), source_checksums(safety)] if safety else []

    def _extra_rows(self) -> Iterator[dict[str, Any]]:
        if self.baseline.extra_rows:
            for row in self.baseline.extra_rows(self.path / "data", self.config):
                tokens = self.tokenizer(row["messages"])
                yield training_row(tokens.input_ids, tokens.response_mask, None)


def _results(folders: Mapping[str, Mapping[int | None, Path]], seed: int) -> dict[str, Any]:
    records = [
        read_record(folder) | {"method": name, "seed": trained}
        for name, seeded in folders.items()
        for trained, folder in seeded.items()
    ]
    samples = {name: {s: read_samples(folder) for s, folder in seeded.items()} for name, seeded in folders.items()}
    summary = []
    for name, seeded in folders.items():
        metrics = {
            metric: interval.as_dict()
            for metric, interval in pooled_intervals(pool(list(samples[name].values())), seed).items()
        }
        if len(seeded) == 1:  # what is known as a figure alone, such as lm-eval's, cannot be pooled
            metrics = next(record["metrics"] for record in records if record["method"] == name) | metrics
        entry: dict[str, Any] = {"method": name, "seeds": [s for s in seeded if s is not None], "metrics": metrics}
        if RIVAL in samples and name != RIVAL:
            found = _differences(samples[name], samples[RIVAL], seed)
            entry["minus_sft"] = {metric: interval.as_dict() for metric, interval in found.items()}
        summary.append(entry)
    return {"format": _RESULTS_FORMAT, "records": records, "summary": summary, "causes": _causes(samples, seed)}


def _differences(one: SeededSamples, two: SeededSamples, seed: int) -> dict[str, Interval]:
    """Paired on the seeds of both; a model that was not trained stands against each seed."""
    if None not in one and None not in two:
        shared = [trained for trained in one if trained in two]
        if not shared:
            return {}
        one, two = ({trained: own[trained] for trained in shared} for own in (one, two))
    return pooled_differences(pool(list(one.values())), pool(list(two.values())), seed)


def _causes(samples: Mapping[str, SeededSamples], seed: int) -> dict[str, Any] | None:
    parts = {"forgotten": (UNTRAINED, ORACLE), "learnt": (ORACLE, RIVAL)}
    if not {UNTRAINED, ORACLE, RIVAL} <= samples.keys():
        return None
    found = {name: _differences(samples[a], samples[b], seed).get(_REFUSALS) for name, (a, b) in parts.items()}
    return {name: interval.as_dict() for name, interval in found.items() if interval} or None
