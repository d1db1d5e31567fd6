"""Can the utility reference be trained on the custom set itself, so that only a harmful set is needed?

    python -m studies.own.study          # trains on the demo's rows; goes on after a kill
    python -m studies.own.study --page   # writes docs/own-utility.md from studies/own/results.json

Each custom row is scored by a utility reference that did not learn from it (two folds), and the folds are trimmed of
the rows that look riskiest. Beside it stand the real utility set, and controls without fold or trim, or without any
utility reference.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from studies.own.cross_fit import folds, trimmed
from studies.own.page import write_page
from studies.provenance import code_version
from studies.spans.quality import Ranking, Resamples

import tosslm
from tosslm.characters import unsafe_tokens
from tosslm.config import load_config
from tosslm.files import atomic_path, write_json
from tosslm.model.adapters import attached_adapters
from tosslm.model.base import Base, open_base
from tosslm.progress import ConsoleReporter
from tosslm.quiet import quiet_libraries
from tosslm.ragged import split_rows
from tosslm.runs.tables import read_losses, stored_rows
from tosslm.training.fine_tune import fine_tune
from tosslm.training.labels import training_row
from tosslm.training.train import Recipe

ROOT = Path("runs/own")
RESULTS = Path(__file__).with_name("results.json")
KEEP = 0.5
Rows = Sequence[dict[str, Any]]
Losses = list[np.ndarray]


class Bench:
    """The demo's run up to its scores, and utility losses under references that are trained here."""

    def __init__(self, root: Path) -> None:
        self._root = root
        settings = ["refinement.rounds=0"]
        self._config = load_config("configs/demo.yaml", settings, run_dir=str(root / "run"))
        self.run = tosslm.run(self._config, until="score", reporter=ConsoleReporter())
        self.base: Base = open_base(self._config.model)
        columns = ["row_id", "input_ids", "response_mask", "offsets", "unsafe_spans", "source"]
        self.rows: Rows = list(stored_rows(self.run.layout.rows("custom"), columns))
        lengths = [sum(row["response_mask"]) for row in self.rows]
        parts = list(read_losses(self.run.scores_folder()))
        self.utility, self.degraded = (
            split_rows(np.concatenate([part[i] for part in parts]), lengths) for i in (2, 3)
        )

    def scores(self, utility: Losses) -> Losses:
        """Of each token, one array a row."""
        return [own - degraded for own, degraded in zip(utility, self.degraded, strict=True)]

    def base_losses(self) -> Losses:
        """Under the base, as if that were the utility reference."""
        return self._kept("base", lambda: tosslm.response_losses(self.base.model, self.rows))

    def trained_on(self, name: str, learns: np.ndarray, scored: np.ndarray) -> Losses:
        """Losses of some rows under a reference that learnt from others, with the settings of the run's references.

        Args:
            name: of the reference.
            learns: bool ``[R]``, what it learns from.
            scored: bool ``[R]``, what it scores.
        """

        def losses() -> Losses:
            folder = self._root / "references" / name
            rows = [
                training_row(row["input_ids"], row["response_mask"], None)
                for row, one in zip(self.rows, learns, strict=True)
                if one
            ]
            if not folder.exists():
                recipe = Recipe(self._config.references, self._config.seed)
                work = self._root / "work" / name
                fine_tune(self.base, rows, recipe, out=folder, work=work, name=name, reporter=ConsoleReporter())
            with attached_adapters(self.base, {"utility": folder}) as model:
                return tosslm.response_losses(model, [row for row, one in zip(self.rows, scored, strict=True) if one])

        return self._kept(name, losses)

    def cross_fitted(self, name: str, stays: np.ndarray) -> Losses:
        """Losses of every row under the reference of the other fold, which learnt from the rows that stay there."""
        of_fold = folds([row["row_id"] for row in self.rows])
        found: list[np.ndarray | None] = [None] * len(self.rows)
        for fold in (0, 1):
            own = self.trained_on(f"{name}-{fold}", (of_fold != fold) & stays, of_fold == fold)
            for place, losses in zip(np.flatnonzero(of_fold == fold).tolist(), own, strict=True):
                found[place] = losses
        return [losses for losses in found if losses is not None]

    def _kept(self, name: str, losses: Any) -> Losses:
        """Losses that a killed study has left, else made now."""
        file = self._root / "losses" / f"{name}.npz"
        if not file.exists():
            made = losses()
            with atomic_path(file) as beside, beside.open("wb") as out:
                np.savez(out, values=np.concatenate(made), lengths=[len(row) for row in made])
        with np.load(file, allow_pickle=False) as stored:
            return split_rows(stored["values"], stored["lengths"])


def signals(bench: Bench) -> tuple[dict[str, Losses], dict[str, Any]]:
    """Each signal's scores; and what the trims left of harm."""
    rows = len(bench.rows)
    everything = np.ones(rows, dtype=bool)
    found = {"utility set": bench.scores(bench.utility), "base": bench.scores(bench.base_losses())}
    by_base = trimmed(found["base"], KEEP)
    found["trimmed by base"] = bench.scores(bench.cross_fitted("by-base", by_base))
    found["cross-fitted"] = bench.scores(bench.cross_fitted("untrimmed", everything))
    by_scores = trimmed(found["cross-fitted"], KEEP)
    found["trimmed by scores"] = bench.scores(bench.cross_fitted("by-scores", by_scores))
    found["all rows"] = bench.scores(bench.trained_on("all", everything, everything))
    unsafe = np.array([bool(row["unsafe_spans"]) for row in bench.rows])
    trims = {
        name: {"rows": int(stays.sum()), "unsafe_rows": int((stays & unsafe).sum())}
        for name, stays in (("all rows", everything), ("trimmed by base", by_base), ("trimmed by scores", by_scores))
    }
    return found, trims


def measure(bench: Bench) -> dict[str, Any]:
    """How well each signal finds the marked tokens, with intervals over rows, and paired differences."""
    found, trims = signals(bench)
    unsafe = np.concatenate([unsafe_tokens(row["offsets"], row["unsafe_spans"] or []) for row in bench.rows])
    numbers = np.repeat(np.arange(len(bench.rows)), [len(row) for row in bench.degraded])
    draws = Resamples.draw(len(bench.rows))
    curves = {name: draws.of(Ranking(unsafe, np.concatenate(one), numbers)) for name, one in found.items()}
    measured = {}
    for name, own in curves.items():
        measured[name] = {
            key: {
                "value": float(own[which, 0]),
                "interval": _interval(own[which]),
                "less_than_utility_set": _interval((curves["utility set"] - own)[which]),
                "more_than_base": _interval((own - curves["base"])[which]),
            }
            for which, key in enumerate(("auroc", "average_precision"))
        }
    facts = {"rows": len(bench.rows), "tokens": len(unsafe), "unsafe_share": float(unsafe.mean()), "keep": KEEP}
    code = {"code": code_version(), "base": bench.base.identity, "versions": bench.run.manifest["versions"]}
    return facts | {"signals": measured, "trims": trims} | code


def _interval(values: np.ndarray) -> list[float]:
    """The middle 95% of draws; the first value is that of the rows themselves."""
    return np.quantile(values[1:], [0.025, 0.975]).tolist()


def main() -> None:
    """Measure, and write results and page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--page", action="store_true", help="write the page from what is there")
    quiet_libraries()
    if not parser.parse_args().page:
        write_json(RESULTS, measure(Bench(ROOT)))
    write_page(json.loads(RESULTS.read_text(encoding="utf-8")), Path("docs/own-utility.md"))


if __name__ == "__main__":
    main()
