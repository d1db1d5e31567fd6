"""The whole method, to be read against the paper (arXiv 2603.01185)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, Literal

import numpy as np

from tosslm.config import Config, TrainingConfig, load_config
from tosslm.data.rows import base_id
from tosslm.data.sets import SETS, prepare_data, source_files
from tosslm.data.tokenize import RowTokenizer
from tosslm.diagnosis.divergence import DEGRADED
from tosslm.errors import InputError
from tosslm.evaluation.measurement import (
    RESULTS,
    Subject,
    check_evaluation,
    evaluate_model,
    prompt_checksums,
    read_record,
    read_results,
    write_results,
)
from tosslm.files import fingerprint, sha256, write_json, write_text
from tosslm.findings.measured import RESULT_FILES
from tosslm.model.base import (
    HAZARD_MARK,
    Base,
    attached_adapters,
    check_adapter,
    folder_checksums,
    open_base,
    where_it_runs,
)
from tosslm.progress import Reporter, SilentReporter
from tosslm.report.figures import divergence_curves
from tosslm.report.page import assets_print, write_report
from tosslm.report.picture import picture
from tosslm.runs.folder import RunFolder, Step
from tosslm.runs.reader import Run, joined_rows
from tosslm.selection.joining import rows_to_join
from tosslm.stages.diagnose import MODEL, diagnose
from tosslm.stages.finetune import model_readme, selective_rows
from tosslm.stages.ranking import finite_scores
from tosslm.stages.references import (
    HAZARD_NOTE,
    UTILITY,
    UTILITY_NOTE,
    degraded,
    held_out_rows,
    reference_rows,
    set_ids,
)
from tosslm.stages.score import score_rows
from tosslm.stages.select import write_keep_mask
from tosslm.tracking import check_trackers, tracked
from tosslm.training.labels import write_training_rows
from tosslm.training.train import train_adapter
from tosslm.training.trainer import TokenLoss

STAGES = ("data", "references", "score", "refine", "select", "finetune", "evaluate", "diagnose", "report")
FORMATS = {
    "data": 1,
    "references": 1,
    "scores": 1,
    "refinement": 1,
    "selection": 1,
    "model": 1,
    "evaluation": 1,
    "diagnosis": 2,
    "report": 1,
}
Notes = dict[Literal["README.md", "HAZARDOUS.md"], str]


def run(
    config: Config | Mapping[str, Any] | str | Path,
    *,
    until: str = STAGES[-1],
    fresh: bool = False,
    reporter: Reporter | None = None,
) -> Run:
    """TOSS, or TOSS-Pro where ``refinement.rounds`` is not 0; what is done already is skipped.

    Args:
        config: a config, the same tree as a mapping, or a YAML file.
        until: the last stage to do, one of ``STAGES``.
        fresh: remove what earlier runs left in the run folder first.
        reporter: where progress goes.

    Returns:
        The run, for reading.

    Raises:
        InputError: config or data are wrong.
        TosslmError: the work failed.
    """
    if until not in STAGES:
        raise InputError(f"stage {until!r} is unknown; choose one of {', '.join(STAGES)}")
    config = config if isinstance(config, Config) else load_config(config)
    check_trackers(config.report_to)
    stages = STAGES[: STAGES.index(until) + 1]
    if "evaluate" in stages:
        check_evaluation(config.evaluation)
    carry_out(Method(config, reporter or SilentReporter(), fresh=fresh), stages)
    return Run(config.run_dir)


def carry_out(method: Method, stages: Sequence[str]) -> None:
    """Do stages in their order, as the one writer of the run folder."""
    with method.folder.lock():
        method.folder.forget_work(method.step_names())
        config = method.config
        method.folder.begin(config.model_dump(mode="json"), config.seed, where_it_runs(config.model))
        for stage in stages:
            getattr(method, stage)()


def evaluate(config: Config, *, reporter: Reporter | None = None) -> list[dict[str, Any]]:
    """The records of base and fine-tuned model; what they still miss is done first.

    Raises:
        InputError: the config names nothing to ask, or as for ``run``.
        TosslmError: the work failed.
    """
    if not config.evaluation.asks:
        raise InputError(
            "evaluation: nothing to ask; name prompts, such as evaluation.harmful.path, or tasks of lm-eval"
        )
    return read_results(run(config, until="evaluate", reporter=reporter).path / "evaluation" / RESULTS)


class Method:
    """One run of the method: each stage reads what earlier ones wrote and writes its own folder.

    Args:
        config: the whole config.
        reporter: where progress goes.
        fresh: take no notice of what earlier runs left.
        base: the base, where it is open already; its weights are loaded once for several methods.
    """

    def __init__(self, config: Config, reporter: Reporter, *, fresh: bool = False, base: Base | None = None) -> None:
        self.config, self.reporter = config, reporter
        self.folder = RunFolder(config.run_dir, fresh=fresh)
        self.path = self.folder.path
        self.base = base or open_base(config.model)
        self.tokenizer = RowTokenizer(self.base.tokenizer, max_length=config.data.max_length, turns=config.data.turns)

    def step_names(self) -> list[str]:
        """All steps of this config, in their order."""
        names = ["data", UTILITY, degraded(0), "scores/round-0"]
        for round_ in range(1, self.config.refinement.rounds + 1):
            names += [f"refinement/round-{round_}", degraded(round_), f"scores/round-{round_}"]
        return [*names, "selection", "model", "evaluation/base", "evaluation/model", "diagnosis", "report"]

    def data(self) -> None:
        """Rows of the three sets become tokens."""
        config = self.config.data
        sources = {name: source_files(getattr(config, name)) for name in SETS}

        def work(step: Step) -> dict[str, Any]:
            counts = prepare_data(config, self.tokenizer, self.path / "data", step.fingerprint, self.reporter)
            return counts | {"sources": sources}

        contents = {name: list(files.values()) for name, files in sources.items()}
        self._do("data", [config.model_dump(), contents, self.base.identity], [], work)

    def references(self) -> None:
        """Two LoRA adapters from the aligned base: one on the utility set, one on the harmful set."""
        self._train_reference(UTILITY, "utility", {"README.md": UTILITY_NOTE}, rounds=0)
        self._train_degraded(0)

    def score(self) -> None:
        """S = loss_utility - loss_degraded, for every response token of the custom set (paper, Eq. for S)."""
        self._score(0)

    def refine(self) -> None:
        """TOSS-Pro: the riskiest custom rows join the harmful set, the degraded reference learns anew, T times."""
        for round_ in range(1, self.config.refinement.rounds + 1):
            self._join(round_)
            self._train_degraded(round_)
            self._score(round_)

    def select(self) -> None:
        """The global top d of response tokens, by score or by evidence in context, are dropped."""
        last = f"scores/round-{self.config.refinement.rounds}"
        self._do(
            "selection",
            [self.config.selection.model_dump(), self.config.seed],
            ["data", last],
            lambda step: write_keep_mask(
                self.config.selection,
                scores=self.path / last,
                data=self.path / "data",
                folder=self.path / "selection",
                seed=self.config.seed,
                step_fingerprint=step.fingerprint,
            ),
        )

    def finetune(self) -> None:
        """The aligned base is fine-tuned on the tokens kept."""
        settings = self.config.finetune
        self._train(
            "model",
            self.training_parts(),
            ["data", "selection"],
            settings,
            self.training_rows,
            lambda: {"README.md": model_readme(self.base)},
            normalize=settings.normalize,
            anchor_weight=settings.anchor_weight if settings.anchors else 0.0,
            token_loss=self.token_loss(),
        )

    def training_rows(self) -> Iterable[dict[str, Any]]:
        """The custom set, its dropped tokens without labels."""
        settings = self.config.finetune
        anchor_first = settings.anchor_first if settings.anchors else None
        return selective_rows(self.path / "data", self.path / "selection", anchor_first)

    def training_parts(self) -> list[Any]:
        """What the fine-tuning depends on beyond its settings, data and selection: here nothing."""
        return []

    def token_loss(self) -> TokenLoss | None:
        """Another loss of each token than its cross-entropy: here none."""
        return None

    def diagnose(self) -> None:
        """How far the model moved from the base, and whether toward harm, at each response position."""
        config, last = self.config.diagnosis, self.config.refinement.rounds
        others = {name: Path(folder) for name, folder in config.adapters.items()}
        plain = self.path / f"compare/sft/seed-{self.config.seed}/model"
        if plain.is_dir():  # a comparison trained it on the same data, without selection
            others.setdefault("sft", plain)
        for folder in others.values():
            check_adapter(folder)
        checksums = {name: folder_checksums(folder) for name, folder in others.items()}
        own = {DEGRADED: self.path / degraded(last), MODEL: self.path / "model"}

        def work(step: Step) -> dict[str, Any]:
            folder = self.path / "diagnosis"
            facts = diagnose(
                self.base,
                config,
                data=self.path / "data",
                holdout=self.config.references.holdout,
                scores=self.path / f"scores/round-{last}",
                selection=self.path / "selection",
                adapters=own | others,
                batch_tokens=self.config.scoring.batch_tokens,
                folder=folder,
                step_fingerprint=step.fingerprint,
                reporter=self.reporter,
            )
            if curves := divergence_curves(folder):
                write_text(folder / "curves.svg", picture(curves))
            return facts

        self._do(
            "diagnosis",
            [config.model_dump(), self.config.references.holdout, self.base.identity, checksums],
            ["data", degraded(last), f"scores/round-{last}", "selection", "model"],
            work,
        )

    def evaluate(self) -> None:
        """Base and fine-tuned model are measured, where the config names something to ask them."""
        if self.config.evaluation.asks:
            self._evaluate("base", None, [], nullcontext)
            inputs, rival = ["model", "evaluation/base"], self.path / "evaluation" / "base"
            self._evaluate("model", self.config.seed, inputs, self._tuned, rival=rival)

    def report(self) -> None:
        """All of it in one file to look at."""
        results = {name: sha256(self.path / name) for name in RESULT_FILES if (self.path / name).is_file()}
        self._do(
            "report",
            [self.config.model_dump(exclude={"run_dir"}), self.base.identity, assets_print(), results],
            [name for name in self.step_names() if name != "report" and not name.startswith("evaluation/")],
            lambda _: write_report(Run(self.path), self.path / "report.html"),
            ("report.html",),
        )

    def _train_degraded(self, round_: int) -> None:
        self._train_reference(degraded(round_), "harmful", {HAZARD_MARK: HAZARD_NOTE}, rounds=round_)

    def _train_reference(self, name: str, set_name: str, notes: Notes, *, rounds: int) -> None:
        settings = self.config.references
        joins = [f"refinement/round-{round_}" for round_ in range(1, rounds + 1)]
        self._train(
            name,
            [set_name],
            ["data", *joins],
            settings,
            lambda: reference_rows(self.path / "data", set_name, settings.holdout, self._joined(rounds)),
            lambda: notes,
        )

    def _train(
        self,
        name: str,
        parts: list[Any],
        inputs: list[str],
        settings: TrainingConfig,
        rows: Callable[[], Iterable[dict[str, Any]]],
        notes: Callable[[], Notes],
        normalize: Literal["kept", "all"] = "kept",
        anchor_weight: float = 0.0,
        token_loss: TokenLoss | None = None,
    ) -> None:
        def work(step: Step) -> dict[str, Any]:
            folder = self.folder.work_folder(step)
            return train_adapter(
                self.base,
                write_training_rows(folder / "rows.arrow", rows(), anchored=anchor_weight > 0),
                settings,
                name=name,
                seed=self.config.seed,
                work=folder,
                out=self.path / name,
                notes=notes(),
                reporter=self.reporter,
                normalize=normalize,
                anchor_weight=anchor_weight,
                token_loss=token_loss,
                report_to=self.config.report_to,
                logs=self.path / "logs" / name,
            )

        self._do(name, [settings.model_dump(), self.config.seed, self.base.identity, *parts], inputs, work)

    def _score(self, round_: int) -> None:
        name = f"scores/round-{round_}"

        def work(step: Step) -> dict[str, Any]:
            with tracked(self.config.report_to, name, self.path / "logs") as log:
                return score_rows(
                    self.base,
                    self.config.scoring,
                    data=self.path / "data",
                    holdout=self.config.references.holdout,
                    utility=self.path / UTILITY,
                    degraded=self.path / degraded(round_),
                    folder=self.path / name,
                    known_utility=self.path / "scores/round-0" if round_ else None,
                    step_fingerprint=step.fingerprint,
                    reporter=self.reporter,
                    log=log,
                )

        self._do(
            name,
            [self.config.scoring.model_dump(), self.config.references.holdout],
            ["data", UTILITY, degraded(round_), *(["scores/round-0"] if round_ else [])],
            work,
        )

    def _tuned(self) -> AbstractContextManager[Any]:
        return attached_adapters(self.base, {"model": self.path / "model"})

    def _evaluate(
        self,
        method: str,
        seed: int | None,
        inputs: list[str],
        adapter: Callable[[], AbstractContextManager[Any]],
        *,
        rival: Path | None = None,
    ) -> None:
        name, folder = f"evaluation/{method}", self.path / "evaluation"
        settings, holdout = self.config.evaluation, self.config.references.holdout

        def work(step: Step) -> dict[str, Any]:
            with adapter() as adapted:
                record = evaluate_model(
                    Subject(adapted or self.base.model, self.tokenizer, method, seed),
                    settings,
                    harmful_rows=held_out_rows(self.path / "data", "harmful", holdout),
                    utility_rows=held_out_rows(self.path / "data", "utility", holdout),
                    folder=folder / method,
                    work=self.folder.work_folder(step),
                    verdicts=self.path / "verdicts.jsonl",
                    rival=rival,
                    seed=self.config.seed,
                    reporter=self.reporter,
                )
            earlier = [read_record(folder / "base")] if "evaluation/base" in inputs else []
            write_results(folder / RESULTS, [*earlier, record])
            return {}

        parts = [settings.model_dump(), prompt_checksums(settings), holdout, self.config.seed, self.base.identity]
        if rival and settings.judge:
            parts.append({file.name: sha256(file) for file in sorted(rival.glob("*.jsonl"))})
        outputs = (name, f"evaluation/{RESULTS}") if method == "model" else (name,)
        self._do(name, parts, ["data", *inputs], work, outputs)

    def _join(self, round_: int) -> None:
        samples = self.config.refinement.samples_per_round

        def work(_: Step) -> dict[str, Any]:
            row_ids: list[str] = []
            best: list[float] = []
            for ids, lengths, scores in finite_scores(self.path / f"scores/round-{round_ - 1}"):
                row_ids += ids
                best += [row.max() for row in np.split(scores, np.cumsum(lengths)[:-1])]
            contents = [base_id(row_id) for row_id in row_ids]
            known = {base_id(row_id) for row_id in set_ids(self.path / "data", "harmful")}
            known |= {base_id(row_id) for row_id in self._joined(round_ - 1)}
            chosen = rows_to_join(np.asarray(best, dtype=np.float32), contents, known, samples)
            joined = [row_ids[i] for i in chosen]
            if len(joined) < samples:
                self.reporter.say(f"round {round_}: only {len(joined)} of {samples} rows were left to join")
            facts = {"round": round_, "samples": samples, "joined": len(joined)}
            write_json(self.path / f"refinement/round-{round_}.json", facts | {"row_ids": joined})
            return facts

        name = f"refinement/round-{round_}"
        earlier = [f"refinement/round-{before}" for before in range(1, round_)]
        self._do(name, [samples], ["data", f"scores/round-{round_ - 1}", *earlier], work, (f"{name}.json",))

    def _joined(self, rounds: int) -> set[str]:
        joined: set[str] = set()
        for round_ in range(1, rounds + 1):
            joined |= set(joined_rows(self.path, round_))
        return joined

    def _do(
        self,
        name: str,
        parts: list[Any],
        inputs: list[str],
        work: Callable[[Step], dict[str, Any]],
        outputs: tuple[str, ...] | None = None,
    ) -> None:
        prints = {source: self.folder.print_of(source) for source in inputs}
        format_ = FORMATS[name.split("/")[0]]
        step = Step(name, fingerprint(format_, *parts, prints), prints, outputs or (name,))
        if not self.folder.do(step, lambda: work(step)):
            self.reporter.say(f"{name}: done before")
