"""Choices of methods on a set that lies in several parts: the same tokens as by hand, and never more than a part."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from support.benches import bench_of, mark_of
from tosslm.data.rows import held_out
from tosslm.errors import TosslmError
from tosslm.files import parquet_writer, write_parquet
from tosslm.methods import registry
from tosslm.methods.dsir import log_importance
from tosslm.methods.material import Material, load_material, material_parts
from tosslm.methods.method import EachRow, Method, Ranked, RankedRows
from tosslm.runs.layout import Layout
from tosslm.runs.tables import DATA_SCHEMA, SCORE_SCHEMA, part_name, read_keep, read_weights
from tosslm.stages.choose import choose

ROWS, GROUP, PART, SHARE = 30, 7, 4, 0.3
"""Rows; of a group of the set's file; of a part of the scores; and the share that is dropped."""
ANSWERS: list[list[int]] = [[0] if i == 5 else [1 + i % 4, 2] if i % 3 == 0 else [2 + i % 5] for i in range(ROWS)]
"""Response tokens of each answer of each row; row 5 has none."""
LENGTHS = [sum(row) for row in ANSWERS]
ROW_OF = [i for i, length in enumerate(LENGTHS) for _ in range(length)]
BUDGET = int(SHARE * len(ROW_OF))
SOURCES = ["harm" if i % 6 == 1 else "good" for i in range(ROWS)]
TEXTS = [f"question {i % 4} of many\nanswer {'good' if i % 2 else 'plain'} {i % 3}" for i in range(ROWS)]


def data_row(number: int) -> dict[str, Any]:
    mask = [False, False]
    for length in ANSWERS[number]:
        mask += [True] * length + [False]
    roles = ("user", "assistant")
    messages = [{"role": role, "content": text} for role, text in zip(roles, TEXTS[number].split("\n"), strict=True)]
    return {
        "row_id": f"{number:016x}",
        "origin": f"x:{number + 1}",
        "source": SOURCES[number],
        "messages": json.dumps(messages),
        "input_ids": list(range(len(mask))),
        "response_mask": mask,
        "offsets": [[1, 0, 1]] * LENGTHS[number],
        "unsafe_spans": [[1, 0, 1]] if number == 8 else None,
    }


def losses(seed: int) -> np.ndarray:
    """Of every token; rounded, so that many are equal."""
    return np.random.default_rng(seed).normal(size=len(ROW_OF)).round(1).astype(np.float32)


UTILITY, DEGRADED = losses(1), losses(2)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    layout = Layout(tmp_path)
    rows = [data_row(number) for number in range(ROWS)]
    with parquet_writer(layout.rows("custom"), DATA_SCHEMA, "made") as writer:
        for start in range(0, ROWS, GROUP):
            writer.write_table(pa.Table.from_pylist(rows[start : start + GROUP], schema=writer.schema))
    target = {name: [row[name] for row in rows[:20]] for name in DATA_SCHEMA.names}
    write_parquet(layout.rows("utility"), target, DATA_SCHEMA, "made")
    for start in range(0, ROWS, PART):
        write_scores(tmp_path, start, LENGTHS[start : start + PART])
    return tmp_path


def write_scores(folder: Path, start: int, lengths: list[int]) -> None:
    ends = np.cumsum([sum(LENGTHS[:start]), *lengths])
    columns: dict[str, Any] = {"row_id": [f"{start + i:016x}" for i in range(len(lengths))]}
    columns["position"] = [list(range(length)) for length in lengths]
    for name, values in (("loss_degraded", DEGRADED), ("loss_utility", UTILITY)):
        columns[name] = [values[a:b] for a, b in pairwise(ends)]
    write_parquet(folder / "scores/round-0" / part_name(start // PART), columns, SCORE_SCHEMA, "made")


def chosen(folder: Path, method: Method) -> list[int]:
    """The tokens that a method drops, as the selection stage writes them."""
    bench = bench_of(folder, selection={"discard_fraction": SHARE}, compare={"harmful_sources": ["harm"]})
    facts = choose(bench, mark_of(folder, "selection"), method)
    masks = dict(read_keep(bench.layout.keep))
    assert [len(mask) for mask in masks.values()] == LENGTHS
    dropped = np.flatnonzero(~np.concatenate(list(masks.values()))).tolist()
    assert facts["discarded"] == len(dropped)
    return dropped


def highest(values: np.ndarray) -> list[int]:
    """Of equal values the earlier tokens go first."""
    return sorted(sorted(range(len(values)), key=lambda i: (-values[i], i))[:BUDGET])


def rows_of(values: list[float]) -> list[int]:
    """Whole rows from the highest value down, each that still fits."""
    left, gone = BUDGET, set()
    for row in sorted(range(ROWS), key=lambda i: (-values[i], i)):
        if LENGTHS[row] <= left:
            gone.add(row)
            left -= LENGTHS[row]
    return [token for token, row in enumerate(ROW_OF) if row in gone]


def by_first_k() -> list[int]:
    places = [place for row in ANSWERS for length in row for place in range(length)]
    return highest(-np.array(places))


def by_rows() -> list[int]:
    scores, row_of = (UTILITY - DEGRADED).astype(np.float64), np.array(ROW_OF)
    return rows_of([scores[row_of == i].mean() if LENGTHS[i] else -np.inf for i in range(ROWS)])


def by_random() -> list[int]:
    return highest(np.random.default_rng(0).permutation(len(ROW_OF)))


def by_dsir() -> list[int]:
    noise = np.random.default_rng(0).gumbel(size=ROWS)
    return rows_of((-(log_importance(TEXTS, learnt_from()) + noise)).tolist())


def learnt_from() -> list[str]:
    """Texts of the utility set but for its held-out rows."""
    ids = [f"{number:016x}" for number in range(20)]
    apart = held_out(ids, 0.1)
    return [text for row_id, text in zip(ids, TEXTS, strict=False) if row_id not in apart]


BY_HAND: dict[str, Callable[[], list[int]]] = {
    "sft": lambda: [],
    "sft-kl": lambda: [],
    "first-k": by_first_k,
    "degraded-only": lambda: highest(-DEGRADED),
    "utility-only": lambda: highest(UTILITY),
    "rows": by_rows,
    "random": by_random,
    "dsir": by_dsir,
    "oracle": lambda: [token for token, row in enumerate(ROW_OF) if SOURCES[row] == "harm"],
    "oracle-tokens": lambda: [token for token, row in enumerate(ROW_OF) if row == 8],
    "toss-soft": lambda: [],
}


@pytest.mark.parametrize("name", BY_HAND)
def test_a_method_chooses_over_parts_what_it_chooses_by_hand(folder: Path, name: str) -> None:
    assert chosen(folder, registry()[name]) == BY_HAND[name]()


def own(**fields: Any) -> Method:
    return Method("own", summary="", source="", badge="control", **fields)


def test_one_that_says_so_is_handed_a_part_at_a_time(folder: Path) -> None:
    sizes: list[int] = []

    def noted(make: Callable[[Material], np.ndarray]) -> Callable[[Material], np.ndarray]:
        def work(material: Material) -> np.ndarray:
            sizes.append(len(material.lengths))
            return make(material)

        return work

    firsts = EachRow(noted(lambda part: part.positions > 0))
    lengths = Ranked(noted(lambda part: np.repeat(part.lengths, part.lengths).astype(np.float32)))
    longest = RankedRows(noted(lambda part: part.lengths.astype(np.float64)))
    drops = [chosen(folder, own(choose=choice)) for choice in (firsts, lengths, longest)]
    assert max(sizes) == PART
    assert sum(sizes) == 3 * ROWS
    assert len(drops[0]) == sum(length > 0 for row in ANSWERS for length in row)
    assert drops[1] == highest(np.array(LENGTHS)[ROW_OF])
    assert drops[2] == rows_of([float(length) for length in LENGTHS])
    sizes.clear()
    chosen(folder, own(builds_on="data", choose=firsts))
    assert max(sizes) == GROUP


def test_weights_that_rest_on_a_row_alone_are_made_by_part_too(folder: Path) -> None:
    weigh = EachRow(lambda part: part.positions / 8)
    keep = EachRow(lambda part: part.positions < 2)
    chosen(folder, own(choose=keep, token_weights=weigh))
    weights = np.concatenate([row for _, row in read_weights(Layout(folder).weights)])
    assert weights.tolist() == [place / 8 for row in ANSWERS for length in row for place in range(length)]


def test_a_plain_function_and_one_with_signals_see_the_whole_set(folder: Path) -> None:
    seen: list[int] = []

    def all_kept(material: Material) -> np.ndarray:
        seen.append(len(material.lengths))
        return np.ones(len(ROW_OF), dtype=bool)

    chosen(folder, own(choose=all_kept))
    chosen(folder, own(choose=EachRow(all_kept), signals={"one": lambda bench: np.array(1)}))
    assert seen == [ROWS, ROWS]


def test_texts_are_read_anew_each_time_and_not_by_part(folder: Path) -> None:
    bench = bench_of(folder)
    whole = load_material(bench, with_scores=False, signals={})
    assert [list(whole.texts), list(whole.texts)] == [TEXTS, TEXTS]
    assert list(whole.target_texts) == learnt_from()
    _, part = next(material_parts(bench, with_scores=False))
    with pytest.raises(TosslmError, match="make it a function of the whole set"):
        list(part.texts)


@pytest.mark.parametrize("choice", [EachRow, lambda of: of])
@pytest.mark.parametrize("wrong", [lambda m: m.positions, lambda m: np.ones(3, dtype=bool)])
def test_a_choice_that_is_no_mask_is_refused(folder: Path, choice: Any, wrong: Any) -> None:
    with pytest.raises(TosslmError, match="not one bool for each response token"):
        chosen(folder, own(choose=choice(wrong)))


def test_values_in_place_of_a_rank_are_refused(folder: Path) -> None:
    with pytest.raises(TosslmError, match="not one float32 for each response token"):
        chosen(folder, own(choose=Ranked(lambda part: part.positions)))
    nans = Ranked(lambda part: np.full(int(part.lengths.sum()), np.nan, dtype=np.float32))
    with pytest.raises(TosslmError, match="row 0000000000000000, response token 0: the score is nan"):
        chosen(folder, own(choose=nans))


@pytest.mark.parametrize("name", ["degraded-only", "rows", "toss-soft"])
@pytest.mark.parametrize("lengths", [[1], [1, 2, 3]])
def test_scores_of_other_rows_are_refused(folder: Path, name: str, lengths: list[int]) -> None:
    (folder / "scores/round-0" / part_name(ROWS // PART)).unlink()
    write_scores(folder, ROWS // PART * PART, lengths)
    with pytest.raises(TosslmError, match="scores are of other rows"):
        chosen(folder, registry()[name])
