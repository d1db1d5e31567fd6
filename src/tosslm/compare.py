"""Several methods on the same data, with the same budget and the same seeds: one table.

Data, references and scores of a seed are made once, in a run that all methods of that seed take over; each method
then has a run folder of its own, whose config names it, and which resumes as any other. What a method and the run
itself do alike to the fingerprint, mask, model and evaluation among it, is done once and taken over by the other.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tosslm.config import Config
from tosslm.diagnosis.curves import diagnosis_means
from tosslm.diagnosis.divergence import DEGRADED
from tosslm.door import check_launcher, check_local, check_overrides, check_places
from tosslm.errors import InputError, TosslmError
from tosslm.evaluation.asking import check_asked
from tosslm.evaluation.checks import check_evaluation
from tosslm.evaluation.comparison import BASE, STANDARD, Seeded, results_of
from tosslm.files import fingerprint, is_whole, make_private, write_json
from tosslm.methods import find_methods, settled, with_values
from tosslm.methods.method import AS_CONFIGURED, PAPER_SHARE, Method
from tosslm.model.base import Base, open_base
from tosslm.model.folders import folder_checksums
from tosslm.model.proxy import Proxy, open_proxy
from tosslm.outward import outward
from tosslm.pipeline import STAGES, carry_out, check_scoring, outputs, steps, upto, workbench
from tosslm.progress import Reporter, SilentReporter
from tosslm.runs.folder import RunFolder
from tosslm.runs.layout import (
    DATA,
    DIAGNOSIS,
    EVALUATION,
    MODEL,
    REPORT,
    SELECTION,
    Layout,
    degraded,
    evaluation,
    evaluation_at,
)
from tosslm.runs.results import measured_prints
from tosslm.stages.diagnose import measure, measured_rows, write_measured
from tosslm.tracking import check_trackers

_OWN_STEPS = (SELECTION, MODEL, f"{EVALUATION}/", DIAGNOSIS, REPORT)


@dataclass(frozen=True, slots=True)
class Comparison:
    """What all methods of a comparison have in common.

    Attributes:
        config: the user's, with what its own method sets.
        base: the frozen base, loaded once for all.
        proxy: the references' model where it is not the base; likewise.
        reporter: where progress goes.
    """

    config: Config
    base: Base
    proxy: Proxy | None
    reporter: Reporter

    @property
    def layout(self) -> Layout:
        """Of the run that is compared with."""
        return Layout(Path(self.config.run_dir))

    def of_method(self, method: Method, seed: int) -> Config:
        """The config of a method's own run folder."""
        folder = self.layout.method(method.name, seed if method.trains else None)
        own = {"method": method.name, "seed": seed, "compare.part_of": "../.."}
        return with_values(self.config, {**method.overrides(self.config), **own}, str(folder))


def compare(
    config: Config, methods: Sequence[str], *, seeds: Sequence[int] | None = None, reporter: Reporter | None = None
) -> dict[str, Any]:
    """Train and evaluate methods, and write ``compare/results.json`` in the run folder.

    Args:
        config: the config; its section ``evaluation`` says what is measured.
        methods: names of ``tosslm.methods.registry()``. A judge compares with standard SFT, which then comes along.
        seeds: of everything random, references included; None is the config's own.
        reporter: where progress goes.

    Returns:
        What was written: ``records``, one a method and seed; ``summary``, one a method, over its seeds, with the
        paired differences to standard SFT where that is among the methods; ``prints``, what the models and
        evaluations are known by; ``failed``, methods and seeds that came to
        nothing, with the reason; ``causes``, where base, standard SFT and the oracle are all among the methods: what
        share of harmful prompts the oracle, which has seen no harm, refuses less than the base (``forgotten``), and
        SFT less than the oracle (``learnt``).

    Raises:
        InputError: config or methods are wrong.
        TosslmError: the work that methods share failed.
    """
    check_launcher(config)
    check_local(config.run_dir, "a comparison", "name one with --run-dir; its base run may be copied there")
    config, _ = settled(config)
    chosen = find_methods([*([STANDARD] if config.evaluation.judge else []), *methods])
    if not config.evaluation.asks:
        raise InputError("compare: nothing to measure; name prompts under evaluation in the config")
    check_evaluation(config.evaluation, config.data.max_row_bytes)
    check_trackers(config.report_to)
    check_places(config)
    check_overrides(config)
    base = open_base(config.model)
    comparison = Comparison(config, base, open_proxy(config, base), reporter or SilentReporter())
    for method in chosen:
        method.find(settled(comparison.of_method(method, config.seed))[0])
    opened = workbench(config, comparison.reporter, base=base, proxy=comparison.proxy)
    check_asked(config.evaluation, opened.tokenizer, config.data.max_row_bytes)
    if said := share_told(config, chosen):
        comparison.reporter.say(said)
    folders: dict[str, dict[int | None, Path]] = {method.name: {} for method in chosen}
    failed: list[dict[str, Any]] = []
    for seed in dict.fromkeys(seeds if seeds is not None else [config.seed]):
        left = [method for method in chosen if method.trains or not folders[method.name]]
        for method, folder in _carry_out_seed(comparison, seed, left, failed):
            folders[method.name][seed if method.trains else None] = folder.layout.root
    done = {name: seeded for name, seeded in folders.items() if seeded}
    results = results_of(_measured(done, config.evaluation.scales), config.seed) | {"failed": failed}
    results["prints"] = {
        name: {str(seed): measured_prints(RunFolder(root)) for seed, root in seeded.items()}
        for name, seeded in done.items()
    }
    write_json(comparison.layout.compared, results)
    if config.seed in done.get(STANDARD, {}):
        _diagnose_standard(comparison)
    make_private(comparison.layout.comparison)
    return results


def share_told(config: Config, chosen: Sequence[Method]) -> str | None:
    """Which methods drop the paper's share, since they drop a share and the config has none; None where none does."""
    if config.selection.discard_fraction != "auto":
        return None
    names = [
        method.name
        for method in chosen
        if (method.drops_share or method.choose is None)
        and method.overrides(config).get("selection.discard_fraction") == PAPER_SHARE
        and method.trains
    ]
    if not names:
        return None
    return (
        f"{', '.join(names)}: {PAPER_SHARE:.0%} of the tokens go, the paper's share, since "
        "selection.discard_fraction is auto, which only the posterior can do; give a number for another"
    )


def _diagnose_standard(comparison: Comparison) -> None:
    """Measure standard SFT on the rows that a run's own model is measured on, to be drawn beside it."""
    config, layout = comparison.config, comparison.layout
    bench = workbench(config, comparison.reporter, base=comparison.base, proxy=comparison.proxy)
    adapter, reference = layout.method(STANDARD, config.seed) / MODEL, degraded(config.refinement.rounds)
    if not bench.folder.is_current(reference):  # no method of the comparison asked for it
        return
    toward = {} if bench.proxy else {DEGRADED: layout.of(reference)}  # a proxy's is no adapter of the base
    inputs = {name: bench.folder.print_of(name) for name in (DATA, reference)}
    parts = [config.diagnosis.model_dump(), config.references.holdout, bench.base.identity, folder_checksums(adapter)]
    mark = fingerprint(*parts, inputs)
    if is_whole(layout.compared_curves / "positions.parquet", mark):
        return
    rows = measured_rows(bench)
    measured, causes = measure(bench, rows, {**toward, STANDARD: adapter})
    facts = {"format": 1, "inputs": inputs, "means": diagnosis_means(rows, measured), "causes": causes}
    write_json(layout.compared_curves / "diagnosis.json", facts)
    write_measured(layout.compared_curves, rows, measured, mark)


def _carry_out_seed(
    comparison: Comparison, seed: int, methods: Sequence[Method], failed: list[dict[str, Any]]
) -> Iterator[tuple[Method, RunFolder]]:
    """The methods of a seed as each is finished; one that fails stops none of the others."""
    shared = refined = _share(comparison, seed, methods)
    for method in methods:
        named = f"{method.name}, seed {seed}" if method.trains else method.name
        comparison.reporter.say(named)
        own, _ = settled(comparison.of_method(method, seed))
        bench = workbench(own, comparison.reporter, base=comparison.base, proxy=comparison.proxy)
        bench.folder.adopt(refined if method.builds_on == "refine" else shared, outputs(), skip=_OWN_STEPS)
        every = steps(own, method)
        wanted = upto(every, "evaluate")
        try:
            carry_out(wanted, bench, every=every)
        except TosslmError as error:
            failed.append({"method": method.name, "seed": seed, "reason": outward(error)})
            comparison.reporter.say(f"{named}: {error}")
            continue
        if method.builds_on == "refine":
            refined = bench.folder  # the next method with TOSS-Pro's rounds takes them over
        yield method, bench.folder


def _share(comparison: Comparison, seed: int, methods: Sequence[Method]) -> RunFolder:
    """The run of a seed whose data, references and scores all methods take over; the config's own where it can be."""
    config, layout = comparison.config, comparison.layout
    own = seed == config.seed
    folder = layout.root if own else layout.shared(seed)
    config = config if own else with_values(config, {"seed": seed}, str(folder))
    needed = max((method.builds_on for method in methods), key=list(STAGES).index, default="data")
    bench = workbench(config, comparison.reporter, base=comparison.base, proxy=comparison.proxy)
    every = steps(config, AS_CONFIGURED)
    wanted = upto(every, needed)
    check_scoring(wanted, bench)
    carry_out(wanted, bench, every=every)
    return bench.folder


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


def _measured(roots: Mapping[str, Seeded], scales: Sequence[float]) -> dict[tuple[str, float | None], Seeded]:
    """Where the results of methods lie, by method and scale of its adapter; None is the adapter as it was trained."""
    found: dict[tuple[str, float | None], Seeded] = {}
    for scale in (None, *scales):
        for name, seeded in roots.items():
            if scale is not None and None in seeded:
                continue  # what was not trained has nothing to scale
            step = evaluation(BASE if None in seeded else MODEL) if scale is None else evaluation_at(scale)
            found[name, scale] = {seed: Layout(root).of(step) for seed, root in seeded.items()}
    return found
