"""The whole method, to be read against the paper (arXiv 2603.01185)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np

from tosslm.config import Config, TrainingConfig, load_config
from tosslm.data.prepare import SETS, prepare_data, source_checksums
from tosslm.data.rows import base_id
from tosslm.data.tokenize import RowTokenizer
from tosslm.diagnosis.diagnose import MODEL, diagnose
from tosslm.diagnosis.divergence import DEGRADED
from tosslm.errors import InputError
from tosslm.files import fingerprint, sha256, write_json
from tosslm.finetune import model_readme, selective_rows
from tosslm.labels import write_training_rows
from tosslm.masks import write_keep_mask
from tosslm.models import HAZARD_MARK, check_adapter, folder_checksums, open_base
from tosslm.progress import Reporter, SilentReporter
from tosslm.ranking import finite_scores
from tosslm.references import HAZARD_NOTE, UTILITY, UTILITY_NOTE, degraded, reference_rows, set_ids
from tosslm.refinement import rows_to_join
from tosslm.report.page import assets_print, write_report
from tosslm.report.story import RESULTS
from tosslm.runs import Run, joined_rows
from tosslm.scoring import score_rows
from tosslm.store import RunFolder, Step
from tosslm.training import train_adapter

STAGES = ("data", "references", "score", "refine", "select", "finetune", "diagnose", "report")
FORMATS = {
    "data": 1,
    "references": 1,
    "scores": 1,
    "refinement": 1,
    "selection": 1,
    "model": 1,
    "diagnosis": 1,
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
    method = Method(config, reporter or SilentReporter(), fresh=fresh)
    with method.folder.lock():
        method.folder.forget_work(method.step_names())
        method.folder.begin(config.model_dump(mode="json"), config.seed)
        for stage in STAGES[: STAGES.index(until) + 1]:
            getattr(method, stage)()
    return Run(config.run_dir)


class Method:
    """One run of the method: each stage reads what earlier ones wrote and writes its own folder.

    Args:
        config: the whole config.
        reporter: where progress goes.
        fresh: take no notice of what earlier runs left.
    """

    def __init__(self, config: Config, reporter: Reporter, *, fresh: bool = False) -> None:
        self.config, self.reporter = config, reporter
        self.folder = RunFolder(config.run_dir, fresh=fresh)
        self.path = self.folder.path
        self.base = open_base(config.model)
        self.tokenizer = RowTokenizer(self.base.tokenizer, max_length=config.data.max_length, turns=config.data.turns)

    def step_names(self) -> list[str]:
        """All steps of this config, in their order."""
        names = ["data", UTILITY, degraded(0), "scores/round-0"]
        for round_ in range(1, self.config.refinement.rounds + 1):
            names += [f"refinement/round-{round_}", degraded(round_), f"scores/round-{round_}"]
        return [*names, "selection", "model", "diagnosis", "report"]

    def data(self) -> None:
        """Rows of the three sets become tokens."""
        config = self.config.data
        sources = {name: source_checksums(getattr(config, name)) for name in SETS}
        self._do(
            "data",
            [config.model_dump(), sources, self.base.identity],
            [],
            lambda step: prepare_data(config, self.tokenizer, self.path / "data", step.fingerprint, self.reporter),
        )

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
            [],
            ["data", "selection"],
            settings,
            lambda: selective_rows(
                self.path / "data", self.path / "selection", settings.anchor_first if settings.anchors else None
            ),
            lambda: {"README.md": model_readme(self.base)},
            normalize=settings.normalize,
            anchor_weight=settings.anchor_weight if settings.anchors else 0.0,
        )

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
        self._do(
            "diagnosis",
            [config.model_dump(), self.config.references.holdout, self.base.identity, checksums],
            ["data", degraded(last), f"scores/round-{last}", "selection", "model"],
            lambda step: diagnose(
                self.base,
                config,
                data=self.path / "data",
                holdout=self.config.references.holdout,
                scores=self.path / f"scores/round-{last}",
                selection=self.path / "selection",
                adapters=own | others,
                batch_tokens=self.config.scoring.batch_tokens,
                folder=self.path / "diagnosis",
                step_fingerprint=step.fingerprint,
                reporter=self.reporter,
            ),
        )

    def report(self) -> None:
        """All of it in one file to look at."""
        results = {name: sha256(self.path / name) for name in RESULTS if (self.path / name).is_file()}
        self._do(
            "report",
            [self.config.model_dump(exclude={"run_dir"}), self.base.identity, assets_print(), results],
            [name for name in self.step_names() if name != "report"],
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
                report_to=self.config.report_to,
                logs=self.path / "logs" / name,
            )

        self._do(name, [settings.model_dump(), self.config.seed, self.base.identity, *parts], inputs, work)

    def _score(self, round_: int) -> None:
        name = f"scores/round-{round_}"
        self._do(
            name,
            [self.config.scoring.model_dump(), self.config.references.holdout],
            ["data", UTILITY, degraded(round_), *(["scores/round-0"] if round_ else [])],
            lambda step: score_rows(
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
            ),
        )

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
