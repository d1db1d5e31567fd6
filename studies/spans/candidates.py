"""Is there better evidence than the posterior where unsafe spans are single words? All that was tried, in one table.

    python -m studies.spans.candidates toxic:0 spliced:0 demo:0            # runs of ``studies.spans.study``
    python -m studies.spans.candidates toxic-smaller:0 --base              # fewer posts; and three losses

A candidate (``tried.py``) is kept if it is at least as good as the token score on all three and better on two. The
runs are made where they are not there. Brackets hold 95% intervals of a difference in average precision, by bootstrap
over rows, paired; with several seeds of a corpus, a line is the mean over them.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
from studies.spans.profile import judged_tokens
from studies.spans.quality import Ranking, Resamples
from studies.spans.settings import corpus_of, run_config
from studies.spans.study import losses_of_base
from studies.spans.tried import CANDIDATES, NEED_BASE, Case, Tokens

import tosslm
from tosslm.model.base import open_base
from tosslm.progress import ConsoleReporter
from tosslm.quiet import quiet_libraries
from tosslm.runs.layout import HELDOUT
from tosslm.runs.tables import held_out_scores, read_losses, reference_rows, stored_rows
from tosslm.statistics import resampled_interval

TOKEN, POSTERIOR = "token score", "posterior"
DRAWS = 500
Curves = dict[str, np.ndarray]


def words_of(rows: Iterable[Mapping[str, Any]]) -> np.ndarray:
    """The word that each response token is part of, int64 ``[N]``, rising from 0.

    A token begins a word where white space stands before it or at its beginning, at the beginning of an answer, and
    where it has no text.
    """
    begins: list[bool] = []
    for row in rows:
        texts = [message["content"] for message in json.loads(row["messages"])]
        own = [
            start <= 0 or texts[m][start - 1 : start + 1].strip() != texts[m][start - 1 : start + 1]
            for m, start, _ in row["offsets"]
        ]
        begins += [True, *own[1:]]
    return np.cumsum(begins) - 1


def case_of(corpus: str, run: tosslm.Run, *, with_base: bool) -> Case:
    """What evidence may be learnt from in a run; with the base's losses where they are asked for."""
    held_out = held_out_scores(run.scores_folder() / HELDOUT)
    over_base = _over_base(corpus, run) if with_base else {}
    tokens = {
        name: Tokens(np.concatenate(rows), np.array([len(row) for row in rows]), over_base.get(name))
        for name, rows in {"custom": run.scores(), **held_out}.items()
    }
    return Case(tokens["custom"], tokens["harmful"], tokens["utility"], words_of(run.rows))


def _over_base(corpus: str, run: tosslm.Run) -> dict[str, np.ndarray]:
    """Loss of the base less that of the degraded reference, float32 ``[N]`` of each set."""
    degraded: dict[str, list[np.ndarray]] = {"harmful": [], "utility": []}
    for row in stored_rows(run.scores_folder() / HELDOUT, ["set", "loss_degraded"]):
        degraded[row["set"]].append(np.asarray(row["loss_degraded"], dtype=np.float32))
    found: dict[str, np.ndarray] = {}
    for name, losses in degraded.items():
        share = run.config.references.holdout
        rows = list(reference_rows(run.layout.rows(name), share, want_held_out=True))
        of_base = tosslm.response_losses(open_base(run.config.model).model, rows)
        found[name] = np.concatenate(of_base) - np.concatenate(losses)
    custom = np.concatenate([part[3] for part in read_losses(run.scores_folder())])
    return found | {"custom": losses_of_base(corpus, run) - custom}


def curves_of(corpus: str, seed: int, *, with_base: bool) -> tuple[int, Curves]:
    """Rows that are judged; and AUROC and average precision of each candidate, float64 ``[2, 1 + draws]``."""
    run = tosslm.run(run_config(corpus, seed), until="select", reporter=ConsoleReporter())
    case = case_of(corpus, run, with_base=with_base)
    judged, unsafe, lengths = judged_tokens(corpus, run.rows)
    _, rows = np.unique(np.repeat(np.arange(len(lengths)), lengths)[judged], return_inverse=True)
    draws = Resamples.draw(int(rows[-1]) + 1, DRAWS)
    candidates = CANDIDATES | (NEED_BASE if with_base else {})
    curves = {
        name: draws.of(Ranking(unsafe[judged], signal(case)[judged], rows)) for name, signal in candidates.items()
    }
    return int(rows[-1]) + 1, curves


def table(rows: int, seeds: list[Curves]) -> Iterator[str]:
    """A line a candidate, over the seeds of a corpus."""
    yield f"{'':<32}{'AUROC':>7}{'AP':>7}{'AP less that of the token score':>34}{'less that of the posterior':>34}"
    for name in seeds[0]:
        auroc, precision = (np.mean([one[name][measure, 0] for one in seeds]) for measure in (0, 1))
        changes = (
            resampled_interval(np.stack([one[name][1] - one[other][1] for one in seeds]), rows)
            for other in (TOKEN, POSTERIOR)
        )
        told = (f"{one.value:+.3f} [{one.low:+.3f}, {one.high:+.3f}]" for one in changes)
        yield f"{name:<32}{auroc:>7.3f}{precision:>7.3f}" + "".join(f"{one:>34}" for one in told)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", metavar="CORPUS:SEED", help="such as toxic:0")
    parser.add_argument("--base", action="store_true", help="with the candidate that needs the base's losses")
    arguments = parser.parse_args()
    quiet_libraries()
    seeds: dict[str, list[Curves]] = defaultdict(list)
    judged: dict[str, int] = {}
    for item in arguments.runs:
        corpus, _, seed = item.partition(":")
        judged[corpus], curves = curves_of(corpus, int(seed), with_base=arguments.base)
        seeds[corpus].append(curves)
    for corpus, own in seeds.items():
        print(f"\n{corpus_of(corpus).title}, {judged[corpus]:,} rows, seeds: {len(own)}")
        print("\n".join(table(judged[corpus], own)), flush=True)


if __name__ == "__main__":
    main()
