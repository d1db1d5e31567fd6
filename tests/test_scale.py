"""What must not grow with the rows, and results that no block or part size may change."""

from __future__ import annotations

import itertools
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from benchmarks import made, measuring, page
from benchmarks.measuring import Results
from benchmarks.tuples import by_tuples
from hypothesis import given
from hypothesis import strategies as st

from support.benches import select_in
from tosslm.data.copies import Copies
from tosslm.errors import TosslmError
from tosslm.files import parquet_writer
from tosslm.runs.ranking import evidence_of
from tosslm.runs.spool import spooled
from tosslm.runs.tables import KEEP_SCHEMA, Parts, RowsInTurn
from tosslm.selection.chain import Chain, improve_chain, log_evidence, passes


@pytest.fixture(scope="module")
def made_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three parts of scores, the last one short."""
    folder = tmp_path_factory.mktemp("made")
    made.write_tokens(folder / "data/custom.parquet", 2500)
    made.write_scores(folder)
    return folder


def scores_of(folder: Path) -> list[np.ndarray]:
    """By row, read with pyarrow alone."""
    files = sorted((folder / "scores/round-0").glob("part-*.parquet"))
    losses = pa.concat_tables([pq.read_table(file, columns=["loss_utility", "loss_degraded"]) for file in files])
    pairs = zip(losses["loss_utility"].to_pylist(), losses["loss_degraded"].to_pylist(), strict=True)
    return [np.array(utility, "f4") - np.array(degraded, "f4") for utility, degraded in pairs]


def test_the_mask_is_that_of_a_sort_of_tuples(made_run: Path) -> None:
    scores = scores_of(made_run)
    facts = select_in(made_run, evidence="token")
    expected, _ = by_tuples([row.tolist() for row in scores])
    assert pq.read_table(made_run / "selection/keep.parquet")["keep"].to_pylist() == expected
    sources = {name: {"rows": 0, "tokens": 0, "discarded": 0} for name in ("kind", "mixed", "rude")}
    for source, row in zip(itertools.cycle(sources), expected, strict=False):
        own = sources[source]
        own["rows"], own["tokens"] = own["rows"] + 1, own["tokens"] + len(row)
        own["discarded"] += row.count(False)
    assert facts["sources"] == sources


def test_the_file_has_the_bytes_of_one_that_is_written_row_by_row(made_run: Path, tmp_path: Path) -> None:
    """So a run that an older version selected is found whole, and its mask the same."""
    select_in(made_run, evidence="token")
    kept = pq.read_table(made_run / "selection/keep.parquet")
    ids, masks = kept["row_id"].to_pylist(), [np.array(row) for row in kept["keep"].to_pylist()]
    with parquet_writer(tmp_path / "keep.parquet", KEEP_SCHEMA, "x") as writer:
        for start in range(0, len(ids), made.ROWS_PER_PART):
            rows = slice(start, start + made.ROWS_PER_PART)
            writer.write_table(pa.table({"row_id": ids[rows], "keep": masks[rows]}, schema=writer.schema))
    assert (tmp_path / "keep.parquet").read_bytes() == (made_run / "selection/keep.parquet").read_bytes()


def test_changes_are_counted_against_the_mask_before_and_not_that_of_other_rows(
    made_run: Path, tmp_path: Path
) -> None:
    select_in(made_run, evidence="token", discard_fraction=0.1)
    before = pq.read_table(made_run / "selection/keep.parquet")
    facts = select_in(made_run, evidence="token", discard_fraction=0.25)
    after = pq.read_table(made_run / "selection/keep.parquet")
    one, two = (
        pc.list_flatten(mask["keep"].combine_chunks()).to_numpy(zero_copy_only=False) for mask in (before, after)
    )
    assert facts["changed_from_previous"] == int((one != two).sum())
    others = after.set_column(0, "row_id", pa.array([f"x{i}" for i in range(len(after))]))
    pq.write_table(others, made_run / "selection/keep.parquet")
    assert "changed_from_previous" not in select_in(made_run, evidence="token")


def test_fewer_rows_than_scores_are_refused(made_run: Path, tmp_path: Path) -> None:
    (tmp_path / "scores").symlink_to(made_run / "scores")
    made.write_tokens(tmp_path / "data/custom.parquet", 2000)
    with pytest.raises(TosslmError, match="fewer rows than there are scores"):
        select_in(tmp_path, evidence="token")


PARTS = [
    (["a", "b"], np.array([2, 1]), np.array([0.5, -0.0, 3e38], dtype=np.float32)),
    ([], np.array([], dtype=np.int64), np.array([], dtype=np.float32)),
    (["ç-2"], np.array([0]), np.array([], dtype=np.float32)),
]


def told(parts: Parts) -> list[tuple[list[str], list[int], bytes]]:
    return [(ids, lengths.tolist(), values.tobytes()) for ids, lengths, values in parts]


def test_what_was_read_once_is_read_again_to_the_bit_by_two_at_a_time(tmp_path: Path) -> None:
    with spooled(tmp_path, iter(PARTS)) as again:
        assert told(again()) == told(iter(PARTS))
        both = list(zip(again(), again(), strict=True))
        assert [told(iter([a])) for a, _ in both] == [told(iter([b])) for _, b in both]
        assert list(tmp_path.iterdir()) == [] or all(file.stat().st_nlink == 0 for file in tmp_path.iterdir())
    assert list(tmp_path.iterdir()) == []


@given(sizes=st.lists(st.integers(1, 5), max_size=6), groups=st.lists(st.integers(0, 4), min_size=1, max_size=6))
def test_rows_come_in_turn_whatever_the_row_groups(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int], groups: list[int]
) -> None:
    file = tmp_path_factory.mktemp("rows") / "rows.parquet"
    table = pa.table({"n": list(range(sum(groups)))})
    with pq.ParquetWriter(file, table.schema) as writer:
        for start, size in zip(itertools.accumulate(groups, initial=0), groups, strict=False):
            writer.write_table(table.slice(start, size))
    rows, left = RowsInTurn(file), list(range(sum(groups)))
    for size in sizes:
        taken = rows.take(size)
        if len(left) < size:
            assert taken is None
            return
        assert taken is not None
        assert taken["n"].to_pylist() == left[:size]
        left = left[size:]


@given(keys=st.lists(st.sampled_from([0, 1, 2**63 - 1, 2**63, 2**64 - 1]) | st.integers(0, 2**64 - 1), max_size=50))
def test_copies_are_counted_as_a_dictionary_counts_them(keys: list[int]) -> None:
    copies, expected = Copies(), Counter[int]()
    for key in keys:
        expected[key] += 1
        assert copies.add(key) == expected[key]
    copies.close()


def naive_step(chain: Chain, e: np.ndarray, lengths: np.ndarray, f: np.ndarray, a: np.ndarray) -> np.ndarray:
    """Expected changes in one piece, as the formula stands."""
    after = np.setdiff1d(np.arange(len(e)), np.cumsum(lengths) - lengths)
    before_odds, after_odds = f[after - 1], e[after] + a[after]
    was = np.array([np.exp(np.minimum(-before_odds, 0)), np.exp(np.minimum(before_odds, 0))])
    then = np.array([np.exp(np.minimum(-after_odds, 0)), np.exp(np.minimum(after_odds, 0))])
    moves = np.array([[1 - chain.enter, chain.enter], [chain.leave, 1 - chain.leave]])
    pairs = was[:, None] * moves[:, :, None] * then[None]
    return (pairs / pairs.sum(axis=(0, 1))).sum(axis=2)


def test_sums_over_parts_have_the_bits_of_one_long_sum() -> None:
    """60,000 tokens are several parts of what is summed at a time; learnt chains must not depend on that."""
    rng = np.random.default_rng(0)
    lengths = rng.integers(50, 151, 600)
    e = rng.normal(size=lengths.sum())
    chain = Chain(0.03, 0.2)
    f, a = passes(e, lengths, chain)
    whole = (np.logaddexp(0, f) - np.logaddexp(0, f - e)).sum()
    assert log_evidence(e, lengths, chain, f) == whole
    moved = naive_step(chain, e, lengths, f, a)
    first = 1 / (1 + np.exp(-(f + a)[np.cumsum(lengths) - lengths]))
    better, rate = improve_chain(chain, e, lengths, f, a), len(lengths) / (chain.enter + chain.leave)
    for got, changes, stays in (
        (better.enter, moved[0, 1] + first.sum(), moved[0, 0]),
        (better.leave, moved[1, 0] + (1 - first).sum(), moved[1, 1]),
    ):
        total = changes + stays + rate  # the smaller root of rate p^2 - total p + changes
        assert got == pytest.approx((total - np.sqrt(total**2 - 4 * rate * changes)) / (2 * rate), rel=1e-12)


def test_evidence_of_several_parts_at_a_time_is_that_of_each_alone() -> None:
    chain, rng = Chain(0.05, 0.3), np.random.default_rng(1)

    def log_odds(scores: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        return np.add(*passes(scores.astype(np.float64), lengths, chain))

    parts = [
        ([str(i)] * 3, n, rng.normal(size=n.sum()).astype("f4")) for i in range(5) for n in [rng.integers(1, 9, 3)]
    ]
    for (_, _, got), (_, lengths, scores) in zip(evidence_of(iter(parts), log_odds), parts, strict=True):
        np.testing.assert_array_equal(got, log_odds(scores, lengths))


def test_a_benchmark_goes_on_where_it_was_killed_and_starts_anew_with_other_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    monkeypatch.setattr(measuring, "code_version", lambda _: "a" * 40)

    def work(name: str) -> dict[str, Any]:
        calls.append(name)
        return {"name": name}

    for settings in ({"rows": 1}, {"rows": 1}, {"rows": 2}):
        Results("trial", settings, tmp_path).measure("a", lambda: work("a"))
    assert calls == ["a", "a"]


def test_the_page_of_performance_is_that_of_the_results() -> None:
    assert page.PAGE.read_text(encoding="utf-8") == page.page(), "run python -m benchmarks.page"
