"""What people decide goes before every rule: the count, the order, the refusals, and what is recorded."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tosslm
from support.benches import bench_of, select_in, selection_mark
from support.made_run import answers, made_run
from tosslm.config import load_config
from tosslm.door import check_overrides
from tosslm.errors import InputError
from tosslm.findings.decided import decided_told, decided_warnings
from tosslm.methods import registry
from tosslm.methods.method import Method, keep_all
from tosslm.report.panel import grid, panel
from tosslm.report.tokens import load_tokens
from tosslm.runs.decisions import parse_decisions, written
from tosslm.runs.tables import read_weights
from tosslm.selection.decided import Decision, decide, overrule, placed
from tosslm.stages.choose import choose
from tosslm.stages.select import select


@settings(deadline=None)
@given(st.data())
def test_people_go_first_and_the_rest_makes_up_for_them(data: st.DataObject) -> None:
    """All but the decided tokens, sorted by hand: the highest go until ``floor(d * N)`` are gone."""
    scores = np.array(data.draw(st.lists(st.integers(-3, 3), min_size=1, max_size=40)), "f4")
    n = len(scores)
    decided = np.array(data.draw(st.lists(st.sampled_from([0, 0, 1, 2]), min_size=n, max_size=n)), "i1")
    d = data.draw(st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.9]))
    keep = overrule(tosslm.select_tokens(placed(scores, decided), d), decided)
    still = [i for i in range(n) if decided[i] == 0]
    by_hand = int((decided == 2).sum())
    more = min(max(int(d * n) - by_hand, 0), len(still))
    gone = set(sorted(still, key=lambda i: (-scores[i], i))[:more]) | set(np.flatnonzero(decided == 2).tolist())
    assert set(np.flatnonzero(~keep).tolist()) == gone
    if by_hand <= int(d * n) <= by_hand + len(still):
        assert (~keep).sum() == int(d * n)


SPANS = st.tuples(st.integers(0, 2), st.integers(0, 12), st.integers(1, 6)).map(lambda s: (s[0], s[1], s[1] + s[2]))


@settings(deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.none() | SPANS), max_size=6))
def test_where_decisions_overlap_the_later_line_counts(lines: list[tuple[bool, tuple[int, int, int] | None]]) -> None:
    offsets = np.array([[0, 0, 3], [0, 3, 7], [0, 7, 7], [2, 0, 5], [2, 4, 9], [-1, -1, -1]])
    decided, last = decide(offsets, [Decision("a", keep, span) for keep, span in lines])
    for token, (message, start, end) in enumerate(offsets.tolist()):
        covers = [
            i
            for i, (_, span) in enumerate(lines)
            if span is None or (message == span[0] and start < span[2] and end > span[1])
        ]
        assert last[token] == max(covers, default=-1)
        assert decided[token] == (0 if not covers else 1 if lines[covers[-1]][0] else 2)


def line(row_id: str, decision: str, span: Sequence[int] = (), **more: Any) -> dict[str, Any]:
    return {
        "row_id": row_id,
        "decision": decision,
        **dict(zip(("message", "start", "end"), span, strict=False)),
        **more,
    }


def wrote(path: Path, lines: Sequence[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(one) + "\n" for one in lines), encoding="utf-8")
    return str(path)


@pytest.fixture
def run(tmp_path: Path) -> tosslm.Run:
    return made_run(tmp_path / "run", answers(20))


def selected(run: tosslm.Run, lines: Sequence[dict[str, Any]], **selection: Any) -> tuple[dict[str, Any], Any]:
    """Facts of a selection with these decisions, and its mask, one array a row."""
    path = wrote(run.path / "overrides.jsonl", lines)
    facts = select_in(run.path, fingerprint="made", overrides=path, **selection)
    return facts, run.keep()


@pytest.mark.parametrize("scope", ["global", "row"])
def test_a_run_heeds_rows_and_spans_and_still_drops_its_share(run: tosslm.Run, scope: str) -> None:
    before, ids = run.keep(), run.rows["row_id"]
    kept, dropped = (next(i for i, row in enumerate(before) if (~row).any() and i > first) for first in (0, 8))
    first_word = run.rows["offsets"][dropped][0]
    lines = [line(ids[kept], "keep", by="ann"), line(ids[dropped], "drop", first_word, by="bob", note="no")]
    facts, after = selected(run, lines, scope=scope)
    assert after[kept].all()
    assert not after[dropped][0]
    n = sum(map(len, before))
    if scope == "global":
        assert facts["discarded"] == int(0.1 * n) == sum((~row).sum() for row in after)
        still = np.concatenate([s for i, s in enumerate(run.scores()) if i != kept])
        mask = np.concatenate([row for i, row in enumerate(after) if i != kept])
        skipped = sum(map(len, [before[i] for i in range(dropped) if i != kept]))
        still[skipped] = np.inf
        assert still[~mask].min() > still[mask].max(), "no open token that stays is riskier than one that goes"
    recorded = json.loads(run.layout.selection_facts.read_text())["overrides"]
    assert recorded["tokens_kept"] == len(before[kept])
    assert recorded["tokens_dropped"] == 1
    assert recorded["by"] == {"ann": len(before[kept]), "bob": 1}
    assert run.layout.decisions.read_text() == (run.path / "overrides.jsonl").read_text()


def test_a_threshold_is_of_what_the_cut_dropped(run: tosslm.Run) -> None:
    lowest = min(range(20), key=lambda i: run.scores()[i].min())
    facts, after = selected(run, [line(run.rows["row_id"][lowest], "drop")])
    cut = [s[~k] for i, (s, k) in enumerate(zip(run.scores(), after, strict=True)) if i != lowest]
    assert facts["threshold"] == pytest.approx(min(row.min() for row in cut if len(row)))


@pytest.mark.parametrize(
    ("decision", "says"), [("drop", "people dropped more than that"), ("keep", "people kept so many")]
)
def test_a_share_that_people_do_not_leave_is_said(run: tosslm.Run, decision: str, says: str) -> None:
    ids = run.rows["row_id"]
    facts, after = selected(run, [line(row_id, decision) for row_id in ids[:-1]])
    want = sum(map(len, after[:-1])) if decision == "drop" else min(len(after[-1]), int(0.1 * sum(map(len, after))))
    assert facts["discarded"] == want
    warnings = decided_warnings(facts)
    assert any(says in warning for warning in warnings) == (facts["discarded"] != facts["overrides"]["budget"])
    assert any("all that was left of them: 19." in warning for warning in warnings) == (decision == "drop")
    assert "unnamed" in str(decided_told(facts))


def test_nothing_left_to_train_on_is_refused(run: tosslm.Run) -> None:
    with pytest.raises(InputError, match="nothing is left to train on"):
        selected(run, [line(row_id, "drop") for row_id in run.rows["row_id"]])


def test_without_decisions_nothing_is_recorded_and_an_older_copy_goes(run: tosslm.Run) -> None:
    selected(run, [line(run.rows["row_id"][0], "drop")])
    facts = select_in(run.path, fingerprint="made")
    assert "overrides" not in facts
    assert not run.layout.decisions.exists()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "2: no JSON object"),
        ("[]", "2: no JSON object"),
        ('{"row_id": 3, "decision": "keep"}', "2: row_id is no text"),
        ('{"row_id": "ROW", "decision": "burn"}', "2: decision is neither keep nor drop"),
        ('{"row_id": "ROW", "decision": ["keep"]}', "2: decision is neither keep nor drop"),
        ('{"row_id": "ROW", "decision": "keep", "span": 1}', "2: unknown key 'span'"),
        ('{"row_id": "ROW", "decision": "keep", "by": 1}', "2: by is no text"),
        ('{"row_id": "ROW", "decision": "keep", "start": 0, "end": 4}', "2: message, start and end are no span"),
        ('{"row_id": "ROW", "decision": "keep", "message": 1, "start": 4, "end": 4}', "2: message, start and end"),
        ('{"row_id": "ROW", "decision": "keep", "message": true, "start": 0, "end": 4}', "2: message, start and"),
        ('{"row_id": "feed", "decision": "keep"}', "2: no row feed in the custom set"),
        ('{"row_id": "ROW", "decision": "drop", "message": 1, "start": 0, "end": 9999}', "2: .*outside the text"),
        ('{"row_id": "ROW", "decision": "drop", "message": 7, "start": 0, "end": 1}', "2: .*row has 2 messages"),
        ('{"row_id": "ROW", "decision": "drop", "message": 0, "start": 0, "end": 3}', "2: .*no token that could be"),
    ],
)
def test_a_line_that_fits_nothing_is_refused_where_it_stands(run: tosslm.Run, text: str, says: str) -> None:
    path = run.path / "overrides.jsonl"
    path.write_text("\n" + text.replace("ROW", run.rows["row_id"][0]) + "\n")
    with pytest.raises(InputError, match=rf"overrides\.jsonl:{says}"):
        select_in(run.path, overrides=str(path))


WORDS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8)


@settings(deadline=None)
@given(st.lists(st.builds(Decision, WORDS, st.booleans(), st.none() | SPANS, *[st.none() | WORDS] * 3), max_size=4))
def test_what_is_written_is_read_again(decisions: list[Decision]) -> None:
    assert parse_decisions(written(decisions), "x") == decisions


def test_the_door_refuses_what_cannot_be_heeded(tmp_path: Path) -> None:
    tree = {"run_dir": str(tmp_path / "run"), "data": {n: {"path": "x"} for n in ("custom", "harmful", "utility")}}

    def config(path: Path) -> Any:
        return load_config(tree, [f"selection.overrides={path}"])

    with pytest.raises(InputError, match="no such file"):
        check_overrides(config(tmp_path / "none.jsonl"))
    (tmp_path / "run" / "selection").mkdir(parents=True)
    inside = tmp_path / "run" / "selection" / "o.jsonl"
    wrote(inside, [])
    with pytest.raises(InputError, match="where a step may write"):
        check_overrides(config(inside))
    good = tmp_path / "run" / "overrides.jsonl"
    wrote(good, [line("a", "keep")])
    check_overrides(config(good))
    with pytest.raises(InputError, match="trains nothing"):
        check_overrides(config(good), selects=False)


def test_a_fingerprint_covers_the_content_and_not_the_path(run: tosslm.Run, tmp_path: Path) -> None:
    from tosslm.stages.select import selection_step

    def mark(path: str | None) -> str:
        bench = bench_of(run.path, selection={"overrides": path})
        return selection_step(registry()["toss"], 0).mark(bench).fingerprint

    same = [wrote(tmp_path / name, [line("a", "keep")]) for name in ("one.jsonl", "two.jsonl")]
    other = wrote(tmp_path / "three.jsonl", [line("a", "drop")])
    assert mark(same[0]) == mark(same[1])
    assert len({mark(None), mark(same[0]), mark(other)}) == 3


def test_decisions_that_change_while_selection_reads_them_are_refused(run: tosslm.Run) -> None:
    """A review saves each click: the mask, its copy of the decisions and its fingerprint must be of one file."""
    ids = run.rows["row_id"]
    bench = bench_of(run.path, selection={"overrides": wrote(run.path / "o.jsonl", [line(ids[3], "keep")])})
    begun = selection_mark(bench, "made")
    wrote(run.path / "o.jsonl", [line(ids[3], "keep"), line(ids[4], "drop")])
    with pytest.raises(InputError, match=r"o\.jsonl has changed since selection began; `toss select` again"):
        select(bench, begun)


@pytest.mark.parametrize("name", ["random", "first-k", "rows", "sft", "degraded-only"])
def test_a_methods_own_choice_is_overruled(run: tosslm.Run, name: str) -> None:
    ids = run.rows["row_id"]
    path = wrote(run.path / "overrides.jsonl", [line(ids[3], "keep"), line(ids[4], "drop")])
    utility = run.layout.rows("utility")
    utility.write_bytes(run.layout.rows("custom").read_bytes())
    bench = bench_of(run.path, selection={"overrides": path})
    facts = choose(bench, selection_mark(bench, "made"), registry()[name])
    keep = run.keep()
    assert keep[3].all()
    assert not keep[4].any()
    assert facts["overrides"]["tokens_dropped"] == len(keep[4])
    assert facts["overrides"]["budget"] is None


def test_what_people_keep_counts_fully_where_a_method_weighs(run: tosslm.Run) -> None:
    method = Method(
        "half",
        "halves",
        "here",
        "own",
        builds_on="data",
        choose=keep_all,
        token_weights=lambda material: np.full(int(material.lengths.sum()), 0.5, "f4"),
    )
    path = wrote(run.path / "overrides.jsonl", [line(run.rows["row_id"][3], "keep")])
    run.layout.rows("utility").write_bytes(run.layout.rows("custom").read_bytes())
    bench = bench_of(run.path, selection={"overrides": path})
    choose(bench, selection_mark(bench, "made"), method)
    weights = [row for _, row in read_weights(run.layout.weights)]
    assert [set(row.tolist()) for row in weights] == [{1.0} if i == 3 else {0.5} for i in range(20)]


@settings(max_examples=20, deadline=None)
@given(st.sampled_from(["global", "row"]), st.integers(0, 9), st.integers(0, 9))
def test_the_page_counts_what_selection_drops(
    tmp_path_factory: pytest.TempPathFactory, scope: str, kept: int, dropped: int
) -> None:
    run = made_run(tmp_path_factory.mktemp("page") / "run", answers(10), scope=scope)
    ids = run.rows["row_id"]
    facts, after = selected(run, [line(ids[dropped], "drop"), line(ids[kept], "keep")], scope=scope)
    manifest = run.manifest
    manifest["stages"]["selection"] |= facts
    run.layout.manifest.write_text(json.dumps(manifest))
    tokens = load_tokens(tosslm.load_run(run.path))
    assert tokens.shown is not None
    np.testing.assert_array_equal(np.concatenate(list(tokens.dropped(tokens.shown, 0.1))), ~np.concatenate(after))
    shown = panel(tokens, 0.1)
    for step, fraction in enumerate(grid(0.1)):
        mask = np.concatenate(list(tokens.dropped(tokens.shown, fraction)))
        by_source = np.bincount(np.repeat(tokens.source, tokens.lengths), mask, len(tokens.sources))
        assert shown["kinds"][0]["counts"][step] == by_source.astype(int).tolist()
    assert replace(tokens).decisions == [Decision(ids[dropped], False), Decision(ids[kept], True)]


def times_written(run: tosslm.Run, name: str) -> dict[str, int]:
    """When each file of a step was written, in nanoseconds."""
    return {file: (run.path / file).stat().st_mtime_ns for file in run.stages[name]["files"]}


@pytest.mark.long
def test_a_whole_run_heeds_a_file_and_does_only_what_follows_anew(tiny_config: dict[str, Any]) -> None:
    run = tosslm.run(tiny_config, until="select")
    before, ids = run.keep(), run.rows["row_id"]
    path = wrote(run.layout.overrides, [line(ids[2], "drop", by="ann"), line(ids[3], "keep", by="ann")])
    written = {name: times_written(run, name) for name in run.stages}
    again = tosslm.run(run.config_to_go_on([f"selection.overrides={path}"]), until="finetune")
    redone = {name for name, times in written.items() if times_written(again, name) != times}
    assert redone == {"selection"}
    after, n = again.keep(), sum(map(len, before))
    assert not after[2].any()
    assert after[3].all()
    assert sum((~row).sum() for row in after) == int(0.2 * n)
    assert again.stages["selection"]["overrides"]["by"] == {"ann": len(after[2]) + len(after[3])}
    kept = sum(int(row.sum()) for row in after)
    assert again.stages["model"]["trained_tokens"] == kept
    assert any("all that was left of them: 1." in warning for warning in again.manifest["warnings"])
    assert "by people, in 2 rows (ann" in str(decided_told(again.stages["selection"]))
