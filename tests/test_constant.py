"""What holds no more for more rows gives what it would give if it held all of them."""

import json
import tracemalloc
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from benchmarks import made
from benchmarks.memory import growth
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from support.benches import bench_of, mark_of
from tosslm.data.rows import base_id
from tosslm.files import parquet_writer, read_batches, write_parquet
from tosslm.findings.spans import EXACT_TOKENS, ranking_quality, tallied
from tosslm.runs.column import Column
from tosslm.runs.tables import DATA_SCHEMA, read_scores
from tosslm.selection.joining import rows_to_join
from tosslm.stages.refine import joining_step


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(groups=st.lists(st.integers(1, 7), max_size=6), size=st.integers(1, 9))
def test_batches_are_of_one_size_whatever_the_groups_of_the_file(
    groups: list[int], size: int, tmp_path: Path
) -> None:
    schema, ids = pa.schema([("row_id", pa.string())]), [str(i) for i in range(sum(groups))]
    with parquet_writer(tmp_path / "some.parquet", schema, "x") as writer:
        for group, start in zip(groups, np.cumsum([0, *groups]), strict=False):
            writer.write_table(pa.table({"row_id": ids[start : start + group]}, schema=writer.schema))
    batches = [[row["row_id"] for row in batch] for batch in read_batches(tmp_path / "some.parquet", rows=size)]
    assert batches == [ids[start : start + size] for start in range(0, len(ids), size)]


def test_reading_a_file_to_its_end_holds_little_of_it(tmp_path: Path) -> None:
    """Asked for all groups at once, Arrow kept pages of every one."""
    schema, group = pa.schema([("messages", pa.string())]), 1000 * 400
    texts = np.random.default_rng(0).bytes(group // 2).hex()
    with parquet_writer(tmp_path / "some.parquet", schema, "x") as writer:
        for _ in range(40):
            rows = [texts[start : start + 400] for start in range(0, group, 400)]
            writer.write_table(pa.table({"messages": rows}, schema=writer.schema))
    before = pa.total_allocated_bytes()
    held = max(pa.total_allocated_bytes() - before for _ in read_batches(tmp_path / "some.parquet"))
    assert held < 5 * group


def test_a_column_gives_back_what_was_written_to_it(tmp_path: Path) -> None:
    column = Column(tmp_path, np.float32)
    for part in ([1.0, 2.0], [], [3.5]):
        column.append(np.array(part))
    assert (len(column), column[:].tolist(), column[1:9].tolist()) == (3, [1.0, 2.0, 3.5], [2.0, 3.5])
    assert [part.tolist() for part in column.parts()] == [[1.0, 2.0, 3.5]]
    assert list(tmp_path.iterdir()) == [], "the file has no name"


def test_a_column_lies_elsewhere_where_a_run_cannot_be_written(tmp_path: Path) -> None:
    column = Column(tmp_path / "not-there", np.int8)
    column.append(np.array([7]))
    assert column[:].tolist() == [7]


def test_a_column_takes_disk_and_no_memory(tmp_path: Path) -> None:
    column, part = Column(tmp_path, np.float32), np.zeros(1 << 16, dtype=np.float32)
    tracemalloc.start()
    for _ in range(64):
        column.append(part)
    total = sum(float(some.sum()) for some in column.parts())
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (total, len(column)) == (0.0, 64 << 16)
    assert peak < 4 * part.nbytes * 4, "a stretch or two, of 16 MB"


def test_very_many_marked_tokens_are_counted_as_well_as_sorted() -> None:
    rng = np.random.default_rng(0)
    unsafe = rng.random(EXACT_TOKENS + 50_000) < 0.1
    scores = (rng.normal(size=len(unsafe)) + unsafe).astype(np.float32)
    parts = [(unsafe[i : i + 9000], scores[i : i + 9000]) for i in range(0, len(unsafe), 9000)]
    tally = tallied(lambda: parts)
    assert len(tally.scores) < len(scores) / 4, "scores are held by their upper bits"
    assert tally.times.sum() == len(scores)
    assert tally.quality() == pytest.approx(ranking_quality(unsafe, scores), abs=5e-4)


def test_rows_that_join_part_by_part_are_those_of_all_rows_at_once(tmp_path: Path) -> None:
    made.write_tokens(tmp_path / "data/custom.parquet", 3000)
    made.write_scores(tmp_path)
    columns = {name: ["harmful" if name == "row_id" else None] for name in DATA_SCHEMA.names}
    write_parquet(tmp_path / "data/harmful.parquet", columns, DATA_SCHEMA, made.FINGERPRINT)
    bench = bench_of(tmp_path, refinement={"rounds": 1, "samples_per_round": 100})
    joining_step(1).work(bench, mark_of(tmp_path, "refinement/round-1"))
    joined = json.loads((tmp_path / "refinement/round-1.json").read_text(encoding="utf-8"))["row_ids"]
    ids: list[str] = []
    best: list[float] = []
    for some, lengths, values in read_scores(tmp_path / "scores/round-0"):
        ids += some
        best += np.maximum.reduceat(values, np.cumsum(lengths) - lengths).tolist()
    at_once = rows_to_join(np.array(best, dtype=np.float32), [base_id(one) for one in ids], {"harmful"}, 100)
    assert joined == [ids[row] for row in at_once]


def test_what_counts_as_constant_is_computed() -> None:
    constant, a_row = growth([10, 100, 1000], [300.0, 310.0, 325.0])
    assert constant, "by few megabytes"
    assert a_row == pytest.approx(15e6 / 900)
    assert not growth([10, 100, 1000], [100.0, 100.0, 117.0])[0]
    assert growth([100, 1000], [500.0, 549.0])[0], "a tenth"
