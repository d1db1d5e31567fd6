"""The selection stage where a method chooses tokens itself: part by part where its choice allows that."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import numpy as np
import pyarrow as pa

from tosslm.errors import TosslmError
from tosslm.files import parquet_writer, read_tables, write_json
from tosslm.methods.material import Material, dropped_share, load_material, material_parts
from tosslm.methods.method import (
    EachRow,
    Method,
    Ranked,
    RankedRows,
    drop_rows_in_order,
    keep_rows,
)
from tosslm.runs.layout import Layout
from tosslm.runs.recorded import Mark
from tosslm.runs.spool import spooled
from tosslm.runs.tables import WEIGHTS_SCHEMA, Parts, finite_part, list_column
from tosslm.selection.cut import apply_cut, find_cut
from tosslm.selection.decided import KEPT, overrule
from tosslm.stages.decided import decided_facts, people_decided
from tosslm.stages.mask import write_mask
from tosslm.stages.step import Facts
from tosslm.workbench import Workbench

_Parts = Callable[[], Iterator[tuple[list[str], Material]]]
_Chosen = Iterator[tuple[list[str], np.ndarray, np.ndarray, np.ndarray | None]]
"""Row ids; response tokens of each row, int64 ``[R]``; the mask, bool ``[N]``; and weights, ``[N]``, if there are."""


def choose(bench: Workbench, mark: Mark, method: Method) -> Facts:
    """A method's own choice of tokens, overruled where people decided; what it drops in all is not made up for.

    A token that people keep has a weight of 1 where the method weighs tokens.

    Returns:
        Facts for the manifest, as of ``stages.select.select``.

    Raises:
        TosslmError: the choice, or a weight, is none, or the scores do not fit the rows.
    """
    layout, by_hand = bench.layout, people_decided(bench, mark)
    forget_evidence(layout)
    layout.weights.unlink(missing_ok=True)
    chosen = _chosen(bench, method)
    with ExitStack() as stack:
        write = stack.enter_context(_weights_writer(layout, mark)) if method.token_weights else None

        def masked() -> Parts:
            for ids, lengths, keep, weights in chosen:
                decided = by_hand.of(ids, lengths)
                if write is not None and weights is not None:
                    write(ids, lengths, np.where(decided == KEPT, np.float32(1), weights))
                yield ids, lengths, overrule(keep, decided)

        counts = write_mask(layout, masked(), mark, by_hand)
    facts = {
        "method": method.name,
        "discard_fraction": dropped_share(bench.config),
        "threshold": None,
        **counts.facts(),
        **decided_facts(by_hand, counts.facts(), emptied=counts.emptied, budget=None),
    }
    write_json(layout.selection_facts, facts)
    return facts | counts.changes()


def forget_evidence(layout: Layout) -> None:
    """Remove the evidence that another choice has left."""
    for file in (layout.evidence, layout.evidence_facts):
        file.unlink(missing_ok=True)


def _chosen(bench: Workbench, method: Method) -> _Chosen:
    """What a method keeps, and weighs, as a stream; read part by part unless the choice is one of the whole set."""
    choice, weigh, parts = method.choose, method.token_weights, _parts_of(bench, method)
    assert choice is not None
    if not method.signals:
        if isinstance(choice, EachRow) and (weigh is None or isinstance(weigh, EachRow)):
            return _of_each_row(parts, choice, weigh)
        if isinstance(choice, Ranked) and weigh is None:
            return _of_ranked(bench, parts, choice)
        if isinstance(choice, RankedRows) and weigh is None:
            return _of_ranked_rows(bench, parts, choice)
    signals = {name: signal(bench) for name, signal in method.signals.items()}
    material = load_material(bench, with_scores=method.builds_on != "data", signals=signals)
    weights = _weights(material, weigh(material)) if weigh else None
    return _of_whole(bench, material, _mask(material, choice(material)), weights)


def _parts_of(bench: Workbench, method: Method) -> _Parts:
    return lambda: material_parts(bench, with_scores=method.builds_on != "data")


def _of_each_row(parts: _Parts, choice: EachRow, weigh: EachRow | None) -> _Chosen:
    for ids, part in parts():
        yield ids, part.lengths, _mask(part, choice(part)), None if weigh is None else _weights(part, weigh(part))


def _of_ranked(bench: Workbench, parts: _Parts, choice: Ranked) -> _Chosen:
    """As ``choice`` of the whole, to the token: the cut is found by counting in two passes over the values."""

    def values() -> Parts:
        for ids, part in parts():
            yield ids, part.lengths, finite_part(ids, part.lengths, _values(part, choice.values(part)))

    ties = 0
    with spooled(bench.layout.root, values()) as ranked:
        cut = find_cut(lambda: (part for _, _, part in ranked()), dropped_share(bench.config))
        for ids, lengths, part in ranked():
            keep, ties = apply_cut(part, cut, ties)
            yield ids, lengths, keep, None


def _of_ranked_rows(bench: Workbench, parts: _Parts, choice: RankedRows) -> _Chosen:
    """A value a row is held, and no token."""
    values = np.concatenate([choice.values(part) for _, part in parts()])
    shape = load_material(bench, with_scores=False, signals={})
    kept = drop_rows_in_order(shape, np.argsort(-values, kind="stable"))
    return _of_whole(bench, shape, keep_rows(shape, kept), None)


def _of_whole(bench: Workbench, material: Material, keep: np.ndarray, weights: np.ndarray | None) -> _Chosen:
    """A mask and weights of the whole set, written a part at a time."""
    row = token = 0
    for table in read_tables(bench.layout.rows("custom"), ["row_id"]):
        lengths = material.lengths[row : row + len(table)]
        own = slice(token, token + int(lengths.sum()))
        yield table["row_id"].to_pylist(), lengths, keep[own], None if weights is None else weights[own]
        row, token = row + len(table), own.stop


def _mask(material: Material, keep: np.ndarray) -> np.ndarray:
    if keep.shape != (material.lengths.sum(),) or keep.dtype != np.bool_:
        raise TosslmError("the method's choice is not one bool for each response token")
    return keep


def _values(material: Material, values: np.ndarray) -> np.ndarray:
    if values.shape != (material.lengths.sum(),) or values.dtype != np.float32:
        raise TosslmError("the method's values are not one float32 for each response token")
    return values


def _weights(material: Material, weights: np.ndarray) -> np.ndarray:
    if weights.shape != (material.lengths.sum(),) or not (np.isfinite(weights) & (weights >= 0)).all():
        raise TosslmError("the method's token weights are not one number from 0 for each response token")
    return weights.astype(np.float32, copy=False)


@contextmanager
def _weights_writer(layout: Layout, mark: Mark) -> Iterator[Callable[[list[str], np.ndarray, np.ndarray], None]]:
    """Writes rows of ``weights.parquet``: ids, lengths, weights."""
    with parquet_writer(layout.weights, WEIGHTS_SCHEMA, mark.fingerprint) as writer:

        def write(ids: list[str], lengths: np.ndarray, weights: np.ndarray) -> None:
            columns = {"row_id": ids, "weight": list_column(weights, lengths)}
            writer.write_table(pa.table(columns, schema=writer.schema))

        yield write
