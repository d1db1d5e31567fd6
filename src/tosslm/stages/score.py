"""The scoring stage: both references' losses of every response token, written part by part."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from tosslm.config import Config
from tosslm.data.own_utility import scoring_fold
from tosslm.files import is_whole, make_private, read_batches, write_parquet
from tosslm.methods.method import Method
from tosslm.progress import Task
from tosslm.runs.layout import HELDOUT, TRUSTED, Layout, degraded, scores, utility_fold
from tosslm.runs.recorded import Mark
from tosslm.runs.staged import make_stage, take
from tosslm.runs.tables import (
    HELDOUT_SCHEMA,
    PROXY_SCHEMA,
    SCORE_SCHEMA,
    TRAINED_COLUMNS,
    part_files,
    part_name,
    reference_rows,
    row_ids,
    stored_rows,
)
from tosslm.stages.own_utility import utility_references, without_untrusted
from tosslm.stages.proxy import ROW_COLUMNS, carried, paired, reads, rows_of
from tosslm.stages.reading import Places, Reading, reading, sample_rows
from tosslm.stages.shard import Shard
from tosslm.stages.step import Facts, Stage, Step
from tosslm.tracking import Trackers, tracked
from tosslm.workbench import Workbench

Rows = Sequence[dict[str, Any]]


def _steps(config: Config, method: Method, before: Sequence[Step]) -> list[Step]:
    return [score_step(config, 0)] if method.builds_on != "data" else []


STAGE = Stage("score", ("scores",), _steps)


def score_step(config: Config, round_: int, stage: str = "score") -> Step:
    """``S = loss_utility - loss_degraded`` of every response token of the custom set (paper, Eq. for S)."""
    own = [TRUSTED] if config.data.utility.of_custom else []
    inputs = (
        *reads(config),
        *own,
        *utility_references(config),
        degraded(round_),
        *([scores(0)] if round_ else []),
    )
    return Step(
        scores(round_),
        stage,
        2,
        inputs,
        lambda bench, mark: score_rows(bench, round_, mark),
        lambda bench: [bench.config.scoring.covered(), bench.config.references.holdout],
    )


def score_rows(bench: Workbench, round_: int, mark: Mark) -> Facts:
    """Score the custom set and the held-out reference rows.

    A proxy reads them in its own tokens, and its losses are carried to the base's by share of characters.

    Parts that a killed process or a shard finished are kept; a part is fixed by its rows alone. With
    ``scoring.engine: ray`` workers do as shards do first, and what they leave is scored here; with ``vllm`` a server
    is asked for the losses. Utility losses of later rounds are those of round 0, for the utility reference stays what
    it is.

    Returns:
        Facts for the manifest: parts, rows, response tokens, tokens read, and of a server what it is and how near it
        came.
    """
    layout, config = bench.layout, bench.config
    folder, known = layout.of(scores(round_)), layout.of(scores(0)) if round_ else None
    total = sum(len(batch) for batch in read_batches(layout.rows("custom"), ["row_id"]))
    facts = {"parts": 0, "parts_reused": 0, "rows": 0, "response_tokens": 0, "tokens": 0}
    shared = _by_workers(bench, round_, mark)
    trackers = Trackers(config.report_to, layout.tracker_logs)
    places = Places(mark.work, layout.server_log())
    with tracked(trackers, mark.name) as log, _losses(bench, round_, places) as losses:
        with bench.reporter.task(f"scoring {folder.name}", total * _passes(known)) as task:
            for number, rows in enumerate(_parts(bench)):
                path = folder / part_name(number)
                facts["parts"] += 1
                facts["rows"] += len(rows)
                facts["response_tokens"] += sum(sum(row["response_mask"]) for row in rows)
                if is_whole(path, mark.fingerprint) or take(layout, mark, path):
                    facts["parts_reused"] += 1
                    task.advance(len(rows) * _passes(known), 0)
                    continue
                columns = _columns(rows, losses, known / path.name if known else None, task)
                write_parquet(path, columns, SCORE_SCHEMA, mark.fingerprint)
                log(_means(columns["loss_degraded"], columns["loss_utility"]), number)
        for stale in part_files(folder)[facts["parts"] :]:
            stale.unlink()
        path = folder / HELDOUT
        if not (is_whole(path, mark.fingerprint) or take(layout, mark, path)):
            _score_heldout(bench, losses, path, known / HELDOUT if known else None, mark)
    if bench.proxy and round_ == config.refinement.rounds:
        from tosslm.model.base import let_go

        let_go(bench.proxy.base)  # the base is to have the memory from here on
    return facts | shared | {"tokens": losses.tokens + shared.get("tokens", 0)} | losses.facts


def _by_workers(bench: Workbench, round_: int, mark: Mark) -> dict[str, int]:
    """Have Ray's workers write files for this process to take, where the config wants that."""
    if bench.config.scoring.engine != "ray":
        return {}
    from tosslm.stages.spread import score_on_ray  # which hands `score_share` to its workers

    return score_on_ray(bench, round_, mark)


def score_share(bench: Workbench, round_: int, mark: Mark, shard: Shard) -> Facts:
    """Write a shard's share of what ``score_rows`` writes, for it to take; the same bytes, whoever computes them.

    The files of a round are numbered: its parts in order, then the held-out rows.

    Returns:
        How many files are the shard's, how many it wrote now, and the tokens read.
    """
    layout, known = bench.layout, bench.layout.of(scores(0)) if round_ else None
    sizes = part_sizes(bench)
    names = [*map(part_name, range(len(sizes))), HELDOUT]
    share = [number for number in range(len(names)) if shard.has(number)]
    stage = make_stage(layout, mark)
    left = [number for number in share if not is_written(layout, mark, names[number])]
    facts = {"files": len(share), "written": len(left)}
    if not left:
        return facts | {"tokens": 0}
    with _losses(bench, round_, Places(stage, layout.server_log(shard.server_name))) as losses:
        total = sum(sizes[number] for number in left if number < len(sizes)) * _passes(known)
        with bench.reporter.task(f"scoring {layout.of(mark.name).name}, shard {shard}", total) as task:
            for number, rows in enumerate(_parts(bench, left)):
                if number in left:
                    path = stage / names[number]
                    columns = _columns(rows, losses, known / path.name if known else None, task)
                    write_parquet(path, columns, SCORE_SCHEMA, mark.fingerprint)
                    make_private(path)
        if len(sizes) in left:
            _score_heldout(bench, losses, stage / HELDOUT, known / HELDOUT if known else None, mark)
            make_private(stage / HELDOUT)
    return facts | {"tokens": losses.tokens}


def part_sizes(bench: Workbench) -> list[int]:
    """Rows of the custom set in each part."""
    rows = bench.layout.rows("custom")
    return [len(batch) for batch in read_batches(rows, ["row_id"], bench.config.scoring.rows_per_part)]


def is_written(layout: Layout, mark: Mark, name: str) -> bool:
    """Whether a file of a round's scores is there, whole and of this very step, taken into the run or not yet."""
    places = (layout.of(mark.name), layout.staged(mark.name, mark.fingerprint))
    return any(is_whole(place / name, mark.fingerprint) for place in places)


def _adapter(step: str) -> str:
    """What an adapter is called while it is attached; a name with a slash or a dot would be taken for a path."""
    return step.removeprefix("references/").partition("/round-")[0].replace("/", "-")


@contextmanager
def _losses(bench: Workbench, round_: int, places: Places) -> Iterator[_Losses]:
    """The losses under the round's references, which are in reach from the first loss to the block's end.

    So who finds all files written by others loads no weights, and starts no server.
    """
    names = (*utility_references(bench.config), degraded(round_))
    adapters = {_adapter(name): bench.layout.of(name) for name in names}
    with ExitStack() as opened:

        def open_(tell: Callable[[str], None]) -> Reading:
            if bench.config.scoring.engine == "vllm":
                from tosslm.stages.serving import serving

                return opened.enter_context(serving(bench, adapters, _sample(bench), places, tell))
            return opened.enter_context(reading(bench, adapters))

        yield _Losses(open_, bench.config)


class _Losses:
    """The losses of rows under one of the references; counts the tokens that were read.

    Rows that are paired with a proxy's are read in its tokens.
    """

    def __init__(self, open_: Callable[[Callable[[str], None]], Reading], config: Config) -> None:
        self._open, self._config, self.tokens = open_, config, 0
        self._reading: Reading | None = None

    @property
    def facts(self) -> dict[str, Any]:
        """For the manifest, of who read."""
        return self._reading.facts if self._reading else {}

    def utility(self, rows: Rows, task: Task) -> list[np.ndarray]:
        """Under the utility reference; where there is one a fold, each row under that which did not learn it."""
        if not self._config.data.utility.of_custom:
            return self.under("utility", rows, task)
        by = [scoring_fold(row["row_id"]) for row in rows]
        found = {}
        for fold in sorted(set(by)):
            own = [row for row, one in zip(rows, by, strict=True) if one == fold]
            found[fold] = iter(self.under(_adapter(utility_fold(fold)), own, task))
        return [next(found[fold]) for fold in by]

    def under(self, adapter: str, rows: Rows, task: Task) -> list[np.ndarray]:
        self._reading = self._reading or self._open(lambda note: task.advance(0, 0, note))
        proxied = bool(self._config.references.model)
        read = _read_of(rows, proxied)
        self.tokens += sum(len(row["input_ids"]) for row in read)
        losses = self._reading.losses(adapter, read, task.advance)
        return carried(rows, losses, self._config) if proxied else losses


def _read_of(rows: Rows, proxied: bool) -> Rows:
    """What the references' model reads of rows."""
    return [row["proxy"] for row in rows] if proxied else rows


def _sample(bench: Workbench) -> Rows:
    """Rows to check a server with, as the references' model reads them."""
    scoring = bench.config.scoring
    chosen = sample_rows(row_ids(bench.layout.rows("custom")), bench.config.seed, scoring.server.check_rows)
    parts = _parts(bench, {place // scoring.rows_per_part for place in chosen.values()})
    return _read_of([row for rows in parts for row in rows if row["row_id"] in chosen], bench.proxy is not None)


def _parts(bench: Workbench, wanted: Container[int] | None = None) -> Iterator[Rows]:
    """The rows of each part, with what a proxy reads of them where there is one; nothing of unwanted parts."""
    count = bench.config.scoring.rows_per_part
    if not bench.proxy:
        yield from read_batches(bench.layout.rows("custom"), TRAINED_COLUMNS, count, wanted=wanted)
        return
    files = (bench.layout.rows("custom"), ROW_COLUMNS), (rows_of(bench, "custom"), PROXY_SCHEMA.names)
    for rows, proxies in zip(
        *(read_batches(path, columns, count, wanted=wanted) for path, columns in files), strict=True
    ):
        yield paired(rows, proxies)


def _held_out(bench: Workbench, name: str) -> Rows:
    """The held-out rows of a reference set, likewise."""
    share = bench.config.references.holdout
    if not bench.proxy:
        return list(reference_rows(bench.layout.rows(name), share, want_held_out=True))
    files = (bench.layout.rows(name), ROW_COLUMNS), (rows_of(bench, name), PROXY_SCHEMA.names)
    return paired(*(list(reference_rows(p, share, want_held_out=True, columns=c)) for p, c in files))


def _passes(known: Path | None) -> int:
    return 1 if known else 2


def _columns(rows: Rows, losses: _Losses, known: Path | None, task: Task) -> dict[str, Any]:
    """The columns of a part; its utility losses are taken from an earlier round's file where that is known."""
    utility = _utility_losses(known) if known else losses.utility(rows, task)
    return {
        "row_id": [row["row_id"] for row in rows],
        "position": [np.flatnonzero(row["response_mask"]).astype(np.int32) for row in rows],
        "loss_degraded": losses.under("degraded", rows, task),
        "loss_utility": utility,
    }


def _means(degraded: Sequence[np.ndarray], utility: Sequence[np.ndarray]) -> dict[str, float]:
    means = [float(np.concatenate(losses).mean()) for losses in (degraded, utility)]
    return {"loss_degraded": means[0], "loss_utility": means[1], "score": means[1] - means[0]}


def _utility_losses(path: Path) -> list[np.ndarray]:
    return [np.asarray(row["loss_utility"], dtype=np.float32) for row in stored_rows(path, ["loss_utility"])]


def _score_heldout(bench: Workbench, losses: _Losses, path: Path, known: Path | None, mark: Mark) -> None:
    held_out = {name: _held_out(bench, name) for name in ("harmful", "utility")}
    if bench.config.data.utility.of_custom:
        held_out["utility"] = without_untrusted(bench, held_out["utility"])
    rows = [row | {"set": name} for name, own in held_out.items() for row in own]
    with bench.reporter.task("scoring held-out rows", len(rows) * _passes(known)) as task:
        columns = _columns(rows, losses, known, task)
    write_parquet(path, columns | {"set": [row["set"] for row in rows]}, HELDOUT_SCHEMA, mark.fingerprint)
