"""The selection stage: from scores to the keep mask, one part in memory at a time; or a method's own choice."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from tosslm.config import Config, SelectionConfig
from tosslm.files import parquet_writer, write_json
from tosslm.methods.method import Method
from tosslm.ragged import split_rows
from tosslm.runs.decisions import ByHand
from tosslm.runs.layout import DATA, SELECTION, Layout, scores
from tosslm.runs.ranking import evidence_of, find_unsafe, found_in
from tosslm.runs.recorded import Mark
from tosslm.runs.spool import spooled
from tosslm.runs.tables import (
    EVIDENCE_SCHEMA,
    Parts,
    finite_scores,
    list_column,
    weighted_scores,
)
from tosslm.selection.control import EVEN_ODDS, Control, cut_above
from tosslm.selection.cut import Cut, apply_cut, find_cut, select_in_rows, share_of
from tosslm.selection.decided import OPEN, overrule, placed
from tosslm.selection.kinds import KINDS
from tosslm.stages.auto import found_threshold, learnt_apart, threshold_facts
from tosslm.stages.choose import choose, forget_evidence
from tosslm.stages.decided import decided_facts, decisions_cover, people_decided
from tosslm.stages.mask import MaskCounts, write_mask
from tosslm.stages.step import Facts, Stage, Step
from tosslm.workbench import Workbench


def _steps(config: Config, method: Method, before: Sequence[Step]) -> list[Step]:
    return [selection_step(method, config.refinement.rounds)] if method.trains else []


STAGE = Stage("select", (SELECTION,), _steps)


def selection_step(method: Method, rounds: int) -> Step:
    """Which response tokens are left out: the method's own choice, else the global top ``d`` by evidence.

    Args:
        method: of the run.
        rounds: of TOSS-Pro; the last round's scores count.
    """
    if method.choose is None:
        return Step(SELECTION, "select", 1, (DATA, scores(rounds)), select, _covers)
    reads = (DATA,) if method.builds_on == "data" else (DATA, scores(rounds))
    return Step(
        SELECTION,
        "select",
        1,
        reads,
        lambda bench, mark: choose(bench, mark, method),
        lambda bench: _choice_covers(bench, method),
    )


def _covers(bench: Workbench) -> list[Any]:
    return [bench.config.selection.covered(), bench.config.seed, *decisions_cover(bench), *_once(bench)]


def _once(bench: Workbench) -> list[Any]:
    """That contents of held-out rows count once, where there are copies: earlier versions counted each."""
    sets = bench.folder.stages.get(DATA, {}).get("sets", {})
    copies = any(sets.get(name, {}).get("repeated") for name in ("harmful", "utility"))
    return ["contents once"] if copies and bench.config.selection.evidence == "posterior" else []


def _choice_covers(bench: Workbench, method: Method) -> list[Any]:
    config = bench.config
    settings = [config.selection.discard_fraction, config.compare.harmful_sources, config.seed]
    return [method.name, method.version, *settings, *method.choice_covers(bench), *decisions_cover(bench)]


def select(bench: Workbench, mark: Mark) -> Facts:
    """The highest evidence is dropped: over the whole set, or inside each row; what people decided goes first.

    Returns:
        Facts for the manifest: those of ``selection.json``, how many tokens' choice differs from the mask that
        stood there before, and how much the posterior finds unsafe.

    Raises:
        TosslmError: a score is not finite (names row and position), or evidence cannot be learnt.
        InputError: people's decisions do not fit the rows, or leave nothing to train on.
    """
    layout = bench.layout
    layout.weights.unlink(missing_ok=True)
    by_hand = people_decided(bench, mark)
    with _ranked(bench, mark) as ranked:
        facts, counts = _cut_and_masked(bench, mark, by_hand, ranked)
        unsafe_found = _unsafe_found(bench, ranked)
    write_json(layout.selection_facts, facts)
    return facts | counts.changes() | {"unsafe_found": unsafe_found}


def _cut_and_masked(
    bench: Workbench, mark: Mark, by_hand: ByHand, ranked: Ranked
) -> tuple[dict[str, Any], MaskCounts]:
    """The mask is written; what is said of it in ``selection.json``, and what was counted."""
    config, control = bench.config.selection, ranked.control

    def values() -> Parts:
        for ids, lengths, part in ranked.values():
            yield ids, lengths, placed(part, by_hand.of(ids, lengths)) if by_hand.rows else part

    cut = _cut(config, values, control)
    lowest, budget = np.inf, 0 if cut is None else cut.discarded

    def masked() -> Parts:
        nonlocal lowest, budget
        for ids, lengths, part, keep in _masked_parts(config, values(), cut):
            decided = by_hand.of(ids, lengths)
            budget += int((~keep).sum()) if cut is None else 0
            lowest = min(lowest, part[~keep & (decided == OPEN)].min(initial=np.inf))
            yield ids, lengths, overrule(keep, decided) if by_hand.rows else keep

    counts = write_mask(bench.layout, masked(), mark, by_hand)
    auto = config.discard_fraction == "auto"
    facts = {
        "discard_fraction": share_of(cut.discarded, cut.tokens) if auto and cut else config.share,
        **({"auto": threshold_facts(control, bench.config)} if auto else {}),
        "scope": config.scope,
        "evidence": config.kind,
        **{name: getattr(config, name) for name in KINDS[config.kind].settings},
        "threshold": float(lowest) if np.isfinite(lowest) else None,
        **counts.facts(),
        **decided_facts(by_hand, counts.facts(), emptied=counts.emptied, budget=None if auto else budget),
    }
    return facts, counts


def _cut(config: SelectionConfig, values: Callable[[], Parts], control: Control | None) -> Cut | None:
    """Where the dropped tokens end; None where each row has an end of its own."""
    if config.discard_fraction == "auto":
        return Cut(*cut_above((part for _, _, part in values()), control.threshold if control else EVEN_ODDS))
    if config.scope == "global":
        return find_cut(lambda: (part for _, _, part in values()), config.share)
    return None


@dataclass(frozen=True, slots=True)
class Ranked:
    """What is ranked, and what is known beside it.

    Attributes:
        values: streams it, as often as it is called.
        control: with ``discard_fraction: auto``, the threshold that was found on held-out rows without a part in the
            evidence, or estimated where they are too few for a bound; None where they are too few for that too.
        scores: streams the scores; None where they were not read.
    """

    values: Callable[[], Parts]
    control: Control | None = None
    scores: Callable[[], Parts] | None = None


@contextmanager
def _ranked(bench: Workbench, mark: Mark) -> Iterator[Ranked]:
    """The scores, or evidence in context, which is written; either is decoded, or computed, once."""
    config, layout = bench.config.selection, bench.layout
    folder = layout.of(scores(bench.config.refinement.rounds))
    kind = KINDS[config.kind]
    forget_evidence(layout)
    if kind.from_losses:
        facts = {"evidence": kind.key, "alpha": config.alpha, "beta": config.beta}
        with spooled(layout.root, weighted_scores(folder, config.alpha, config.beta)) as weighted:
            _write_evidence(layout, weighted(), facts, mark)
            yield Ranked(weighted)
        return
    with spooled(layout.root, finite_scores(folder)) as scored:
        if kind.learn is None:
            yield Ranked(scored, scores=scored)
            return
        facts, in_context, useful = learnt_apart(bench.config, kind, folder, scored)
        with spooled(layout.root, evidence_of(scored(), in_context)) as ranked:
            _write_evidence(layout, ranked(), facts, mark)
            yield Ranked(ranked, found_threshold(useful, config.false_discard, ranked), scored)


def _write_evidence(layout: Layout, ranked: Parts, facts: Mapping[str, Any], mark: Mark) -> None:
    with parquet_writer(layout.evidence, EVIDENCE_SCHEMA, mark.fingerprint) as writer:
        for ids, lengths, values in ranked:
            columns = {"row_id": ids, "evidence": list_column(values, lengths)}
            writer.write_table(pa.table(columns, schema=writer.schema))
    write_json(layout.evidence_facts, facts)


def _unsafe_found(bench: Workbench, ranked: Ranked) -> dict[str, float] | None:
    """How much the posterior finds unsafe: of what was ranked where that is it, else learnt for this alone."""
    layout = bench.layout
    if bench.config.selection.evidence == "posterior":
        learnt = json.loads(layout.evidence_facts.read_text(encoding="utf-8"))
        return found_in((part for _, _, part in ranked.values()), learnt["unsafe_share"])
    folder = layout.of(scores(bench.config.refinement.rounds))
    return find_unsafe(folder, seed=bench.config.seed, parts=ranked.scores)


def _masked_parts(
    config: SelectionConfig, parts: Parts, cut: Cut | None
) -> Iterator[tuple[list[str], np.ndarray, np.ndarray, np.ndarray]]:
    ties = 0
    for ids, lengths, part in parts:
        if cut is not None:
            keep, ties = apply_cut(part, cut, ties)
        else:
            keep = np.concatenate(select_in_rows(split_rows(part, lengths), config.share))
        yield ids, lengths, part, keep
