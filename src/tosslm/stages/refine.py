"""TOSS-Pro: the riskiest custom rows join the harmful set, and a new degraded reference scores again."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tosslm.config import Config
from tosslm.data.rows import base_id
from tosslm.files import write_json
from tosslm.methods.method import Method
from tosslm.ragged import split_rows
from tosslm.runs.layout import DATA, refinement, scores
from tosslm.runs.tables import finite_scores, row_ids
from tosslm.selection.joining import rows_to_join
from tosslm.stages.references import degraded_step, joined_by
from tosslm.stages.score import score_step
from tosslm.stages.step import Facts, Stage, Step
from tosslm.workbench import Workbench


def _steps(config: Config, method: Method, before: Sequence[Step]) -> list[Step]:
    """For each round: rows join, the degraded reference learns anew from the base, and scores the set again."""
    rounds = config.refinement.rounds if method.builds_on != "data" else 0
    found: list[Step] = []
    for round_ in range(1, rounds + 1):
        found.append(joining_step(round_))
        found += [degraded_step(config, round_, "refine"), score_step(config, round_, "refine")]
    return found


STAGE = Stage(
    "refine",
    ("refinement", "references", "scores"),
    _steps,
)


def joining_step(round_: int) -> Step:
    """Rows of the highest token scores of the round before join the harmful set."""
    earlier = (refinement(before) for before in range(1, round_))
    name = refinement(round_)
    return Step(
        name,
        "refine",
        1,
        (DATA, scores(round_ - 1), *earlier),
        lambda bench, _: _join(bench, round_),
        lambda bench: [bench.config.refinement.samples_per_round],
        (f"{name}.json",),
    )


def _join(bench: Workbench, round_: int) -> Facts:
    samples, layout = bench.config.refinement.samples_per_round, bench.layout
    known = {base_id(row_id) for row_id in row_ids(layout.rows("harmful"))}
    known |= {base_id(row_id) for row_id in joined_by(layout, round_ - 1)}
    ids: list[str] = []
    best = np.zeros(0, dtype=np.float32)
    # Whoever is among the first of all is among the first of what came before and a part: no row is held that is not.
    for part_ids, lengths, part in finite_scores(layout.of(scores(round_ - 1))):
        ids = [*ids, *part_ids]
        best = np.concatenate([best, [row.max() for row in split_rows(part, lengths)]], dtype=np.float32)
        chosen = rows_to_join(best, [base_id(row_id) for row_id in ids], known, samples)
        ids, best = [ids[i] for i in chosen], best[chosen]
    if len(ids) < samples:
        bench.reporter.say(f"round {round_}: only {len(ids)} of {samples} rows were left to join")
    facts = {"round": round_, "samples": samples, "joined": len(ids)}
    write_json(layout.joined(round_), facts | {"row_ids": ids})
    return facts
