"""Where everything of a run lies: every path, once.

A step is named as what it writes, so that ``scores/round-0`` is a key of the manifest and a folder of the run.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

DATA = "data"
PROXY = "proxy"
UTILITY = "references/utility"
OWN_UTILITY = "references/own-utility"
TRUSTED = "trusted"
SELECTION = "selection"
MODEL = "model"
EVALUATION = "evaluation"
EVALUATED = "evaluation/results"
DIAGNOSIS = "diagnosis"
REPORT = "report"
SETS = ("custom", "harmful", "utility")
RESULTS = "results.json"
HELDOUT = "heldout.parquet"


def degraded(round_: int) -> str:
    """The degraded reference of a round of TOSS-Pro; 0 is plain TOSS."""
    return f"references/degraded/round-{round_}"


def utility_fold(fold: int) -> str:
    """The utility reference that learnt from one fold of the custom set, 0 or 1."""
    return f"{OWN_UTILITY}/fold-{fold}"


def scores(round_: int) -> str:
    """The scores of a round."""
    return f"scores/round-{round_}"


def refinement(round_: int) -> str:
    """The choice of the rows that join in a round, from 1."""
    return f"refinement/round-{round_}"


def evaluation(name: str) -> str:
    """The evaluation of ``base`` or ``model``."""
    return f"{EVALUATION}/{name}"


def evaluation_at(scale: float) -> str:
    """The evaluation of the model whose adapter is scaled."""
    return f"{evaluation(MODEL)}-at-{scale:g}"


@dataclass(frozen=True, slots=True)
class Layout:
    """The files of one run folder.

    Args:
        root: the folder.
    """

    root: Path

    def of(self, step: str) -> Path:
        """What a step writes: a folder, most often."""
        return self.root / step

    @property
    def manifest(self) -> Path:
        """What was done, with what, and the checksum of every file."""
        return self.root / "manifest.json"

    @property
    def lock(self) -> Path:
        """Held by the folder's one writer."""
        return self.root / ".lock"

    @property
    def writer(self) -> Path:
        """Says who the writer is."""
        return self.root / ".writer"

    @property
    def work(self) -> Path:
        """Unfinished work of running steps."""
        return self.root / ".work"

    @property
    def log(self) -> Path:
        """What a run said while it worked."""
        return self.root / "run.log"

    def shard_log(self, index: int, count: int) -> Path:
        """What a shard said while it worked; several of them write at once, each to its own."""
        return self.tracker_logs / f"shard-{index}-of-{count}.log"

    def worker_log(self, number: int) -> Path:
        """What a worker of Ray said while it worked."""
        return self.tracker_logs / f"ray-worker-{number}.log"

    def server_log(self, name: str = "server") -> Path:
        """What a server that scores said."""
        return self.tracker_logs / f"{name}.log"

    @property
    def shards(self) -> Path:
        """What shards have written and the run's writer has not taken yet."""
        return self.root / ".shards"

    def staged(self, step: str, fingerprint: str = "") -> Path:
        """The same of one step, with one fingerprint."""
        return self.shards / step.replace("/", "-") / fingerprint

    @property
    def tracker_logs(self) -> Path:
        """Files of trackers that write some, and logs of shards."""
        return self.root / "logs"

    @property
    def data(self) -> Path:
        """Folder of the three sets."""
        return self.of(DATA)

    def rows(self, name: str) -> Path:
        """The tokenised rows of a set, one of ``SETS``."""
        return self.data / f"{name}.parquet"

    def proxy_rows(self, name: str) -> Path:
        """The rows of a set as a proxy's tokenizer cuts them, in the same order."""
        return self.of(PROXY) / f"{name}.parquet"

    @property
    def bad_rows(self) -> Path:
        """Rows that were left out, with reasons."""
        return self.data / "bad_rows.jsonl"

    def heldout(self, round_: int) -> Path:
        """Losses of the held-out reference rows."""
        return self.of(scores(round_)) / HELDOUT

    @property
    def trusted(self) -> Path:
        """Which rows of the custom set stand in for a utility set, where there is none."""
        return self.of(TRUSTED) / "rows.json"

    def joined(self, round_: int) -> Path:
        """Which rows joined the harmful set in a round."""
        return self.root / f"{refinement(round_)}.json"

    @property
    def keep(self) -> Path:
        """The keep mask."""
        return self.of(SELECTION) / "keep.parquet"

    @property
    def evidence(self) -> Path:
        """What selection ranked, where that is not the scores themselves."""
        return self.of(SELECTION) / "evidence.parquet"

    @property
    def evidence_facts(self) -> Path:
        """What was learnt for it, and from what."""
        return self.of(SELECTION) / "evidence.json"

    @property
    def decisions(self) -> Path:
        """What people decided, as it was when tokens were selected."""
        return self.of(SELECTION) / "overrides.jsonl"

    @property
    def overrides(self) -> Path:
        """Where `toss review` keeps decisions unless it is told otherwise; no step writes or reads it by itself."""
        return self.root / "overrides.jsonl"

    @property
    def weights(self) -> Path:
        """What each token counts, where a method weighs them."""
        return self.of(SELECTION) / "weights.parquet"

    @property
    def selection_facts(self) -> Path:
        """How many tokens were dropped, of which source, from which threshold on."""
        return self.of(SELECTION) / "selection.json"

    @property
    def model(self) -> Path:
        """The fine-tuned adapter."""
        return self.of(MODEL)

    @property
    def diagnosis(self) -> Path:
        """Where safety went: figures by position."""
        return self.of(DIAGNOSIS)

    @property
    def results(self) -> Path:
        """One record of each model that was evaluated."""
        return self.of(EVALUATION) / RESULTS

    @property
    def verdicts(self) -> Path:
        """What a judge said, so that it is not asked twice."""
        return self.root / "verdicts.jsonl"

    @property
    def comparison(self) -> Path:
        """Folder of `toss compare`: a run folder for each method and seed."""
        return self.root / "compare"

    @property
    def compared(self) -> Path:
        """One record of each method and seed that was compared."""
        return self.comparison / RESULTS

    @property
    def compared_curves(self) -> Path:
        """Diagnosis of standard SFT, on the rows and against the degraded reference of the run."""
        return self.comparison / "diagnosis"

    def method(self, name: str, seed: int | None) -> Path:
        """Run folder of a compared method; None is the seed of one that trains nothing."""
        return self.comparison / name / ("untrained" if seed is None else f"seed-{seed}")

    def shared(self, seed: int) -> Path:
        """Run folder of what a comparison's methods share, for a seed that is not the config's own."""
        return self.comparison / "shared" / f"seed-{seed}"

    @property
    def report(self) -> Path:
        """All of it in one page."""
        return self.root / "report.html"
