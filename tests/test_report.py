"""What the report is made of, without a browser: places, ranks, sampling, escaping, words."""

from __future__ import annotations

import base64
import gzip
import json
import math
import re
import shutil
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tosslm
from support.made_run import answers, made_run, with_own_choice
from support.made_sections import add_sections
from tosslm.findings import story
from tosslm.findings.diagnosed import curve_records, read_diagnosis
from tosslm.findings.measured import Measured, read_measured
from tosslm.findings.sentence import Strong
from tosslm.findings.warnings import run_warnings
from tosslm.report import figures, page, shell
from tosslm.report.charts import Axes, Point, Series, line_chart, point_chart, ticks
from tosslm.report.embed import choose_rows, encode, risky_rows, utf16_places
from tosslm.report.page import write_report
from tosslm.report.panel import grid
from tosslm.report.sections import SECTIONS
from tosslm.report.tokens import load_tokens
from tosslm.runs.ranking import learn_ranking
from tosslm.runs.reader import Run
from tosslm.selection.cut import select_in_rows, select_tokens
from tosslm.selection.kinds import KINDS

ROWS: list[dict[str, Any]] = [
    {"answer": "Take a 👍 warm\ncloth and wipe it", "source": "good", "unsafe_spans": []},
    {"answer": "hit him 💥 hard with it", "source": "bad", "unsafe_spans": [(0, 9)]},
    {"answer": "one two three four five six", "source": "good"},
]


def unpacked(html: str) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The embedded block, read as its description says."""
    (block,) = re.findall(r'id="block">([^<]*)</script>', html)
    data = gzip.decompress(base64.b64decode(block, validate=True))
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    columns = {
        name: np.frombuffer(data, np.dtype(kind).newbyteorder("<"), count, 8 + length + at)
        for name, (kind, at, count) in header["columns"].items()
    }
    return header, columns


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1), st.data())
def test_places_are_counted_as_scripts_count(text: str, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(text)))
    end = data.draw(st.integers(start, len(text)))
    ((message, first, last),) = utf16_places([("user", "x"), ("assistant", text)], [[1, start, end]]).tolist()
    units = text.encode("utf-16-le")
    assert message == 1
    assert units[2 * first : 2 * last].decode("utf-16-le") == text[start:end]


def test_the_embedded_rows_give_every_token_back(tmp_path: Path) -> None:
    run = made_run(tmp_path / "run", ROWS, discard_fraction=0.2)
    write_report(run, tmp_path / "report.html")
    header, columns = unpacked((tmp_path / "report.html").read_text(encoding="utf-8"))
    at, end = 0, 0
    for row, n, scores, offsets in zip(
        header["rows"], columns["length"], run.scores(), run.rows["offsets"], strict=True
    ):
        end = 0
        units = row[4][1][1].encode("utf-16-le")
        for i, place in enumerate(offsets):
            start = end + columns["gap"][at + i]
            end = start + columns["size"][at + i]
            if place[0] < 0:
                assert (columns["turn"][at + i], start, end) == (-1, -1, -1)
            else:
                assert units[2 * start : 2 * end].decode("utf-16-le") == row[4][1][1][place[1] : place[2]]
            assert columns["value0"][at + i] * header["step"] == pytest.approx(scores[i], abs=header["step"])
        at += n
    assert header["rows"][1][5] == [[1, 0, 10]], "the ninth code point is the tenth UTF-16 unit"


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.lists(st.sampled_from([-1.0, 0.0, -0.0, 0.5, 2.0]), min_size=7, max_size=7), min_size=1), st.data()
)
def test_ranks_drop_what_selection_drops(scores: list[list[float]], data: st.DataObject) -> None:
    from tempfile import TemporaryDirectory

    scope = data.draw(st.sampled_from(["global", "row"]))
    fraction = data.draw(st.sampled_from(grid(0.123)))
    rows = [{"answer": f"a{i} b c d e f", "scores": row} for i, row in enumerate(scores)]
    with TemporaryDirectory() as folder:
        tokens = load_tokens(made_run(Path(folder), rows, scope=scope))
    values = [np.array(row, dtype=np.float32) for row in scores]
    keep = (
        select_tokens(np.concatenate(values), fraction)
        if scope == "global"
        else np.concatenate(select_in_rows(values, fraction))
    )
    dropped = np.concatenate(list(tokens.dropped(tokens.rankings[0], fraction)))
    assert dropped.tolist() == (~keep).tolist()


def test_counts_and_thresholds_of_each_step(tmp_path: Path) -> None:
    run = made_run(tmp_path / "run", ROWS, discard_fraction=0.07)
    write_report(run, tmp_path / "report.html")
    header, _ = unpacked((tmp_path / "report.html").read_text(encoding="utf-8"))
    scores = np.concatenate(run.scores())
    source = np.repeat(run.rows["source"], [len(row) for row in run.scores()])
    assert header["grid"][header["own"]] == 0.07
    for fraction, counts, threshold in zip(
        header["grid"], header["kinds"][0]["counts"], header["kinds"][0]["thresholds"], strict=True
    ):
        dropped = ~select_tokens(scores, fraction)
        assert counts == [int((source[dropped] == name).sum()) for name in header["sources"]]
        assert threshold == (scores[dropped].min() if dropped.any() else None)


def test_which_rows_are_covered(tmp_path: Path) -> None:
    low, high = [-1.0] * 6, [3.0] * 6
    rows = [
        {"answer": "a b c d e", "scores": low},
        {"answer": "f g h i j", "scores": high},
        {"answer": "k l m n o", "scores": low, "unsafe_spans": [(0, 1)]},
    ]
    run = made_run(tmp_path / "run", rows, discard_fraction=0.3)
    write_report(run, tmp_path / "report.html")
    header, _ = unpacked((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert [row[3] & 1 for row in header["rows"]] == [0, 1, 1]


@pytest.mark.parametrize("scope", ["global", "row"])
@pytest.mark.parametrize("fraction", [0.0, 0.1, 0.5])
def test_risk_is_judged_apart_from_the_mask(tmp_path: Path, scope: str, fraction: float) -> None:
    """Selection inside rows, or of nothing, takes the same share of each row, and says nothing of it."""
    few = [2.0, 2.0, *[-1.0] * 8]  # risky in places: more than a tenth of it is in the top tenth
    rows = [{"answer": "a b c d e f g h i", "scores": few}] + [
        {"answer": f"{i} b c d e f g h i", "scores": [0.1 if i == 1 else -0.5] * 10} for i in range(1, 11)
    ]
    run = made_run(tmp_path / "run", rows, scope=scope, discard_fraction=fraction)
    assert risky_rows(load_tokens(run), fraction).tolist()[:2] == [True, True]
    if fraction < 0.1 or scope == "row":
        assert not risky_rows(load_tokens(run), fraction)[2:].any()


def test_a_row_too_large_for_its_share_is_skipped(tmp_path: Path) -> None:
    rows = [{"answer": "x " * 2000, "scores": [9.0] * 2001 + [0.0]}]
    rows += [{"answer": "a b c", "scores": [float(i), -9, -9, -9]} for i in range(90)]
    run = made_run(tmp_path / "run", rows)
    tokens = load_tokens(run)
    chosen = choose_rows(tokens, np.zeros(91), budget=90 * 40 / 3, seed=0)
    assert sorted(chosen["riskiest"]) == list(range(81, 91)), "rows after the one that is too large"
    assert {name: rows.tolist() for name, rows in choose_rows(tokens, np.zeros(91), 30, 0).items()} == {
        "smallest": [1]
    }


def test_a_report_that_cannot_be_small_enough_says_so(tmp_path: Path) -> None:
    words = np.random.default_rng(0).integers(0, 10**9, 4000).astype(str)
    run = made_run(tmp_path / "run", [{"answer": " ".join(words[i::2])} for i in range(2)])
    with pytest.warns(UserWarning, match="more than 60,000: its rows are too long"):
        facts = write_report(run, tmp_path / "report.html", max_bytes=60_000)
    assert facts["rows_shown"] == 1
    assert "1 the smallest" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_a_posterior_can_be_looked_at_where_it_can_be_learnt(tmp_path: Path) -> None:
    assert [r.key for r in load_tokens(made_run(tmp_path / "flat", ROWS)).rankings] == ["token"]
    run = made_run(tmp_path / "run", ROWS, telling=True, discard_fraction=0.2)
    tokens = load_tokens(run)
    assert [r.key for r in tokens.rankings] == ["token", "posterior"]
    assert tokens.shown is tokens.rankings[0]
    _, log_odds = learn_ranking(KINDS["posterior"], run.scores_folder(), seed=0)
    expected = log_odds(np.concatenate(run.scores()), tokens.lengths)
    assert tokens.rankings[1].values[:].tolist() == pytest.approx(expected.tolist(), rel=1e-5)
    write_report(run, tmp_path / "report.html")
    header, _ = unpacked((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert header["ownKind"] == 0
    assert header["kinds"][1]["unit"] == "log-odds"


def test_small_sources_of_very_many_are_one(tmp_path: Path) -> None:
    rows = [{"answer": "a b c", "source": f"s{max(i, 50)}" if i < 60 else f"s{i}"} for i in range(4000)]
    run = made_run(tmp_path / "run", rows)
    write_report(run, tmp_path / "report.html")
    header, _ = unpacked((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert len(header["sources"]) == 51
    assert header["sources"][0] == "s50", "the largest first"
    assert header["sources"][-1] == "other sources (3,900)"
    assert sum(header["sourceTokens"]) == 4 * 4000
    last = header["rows"][-1]
    assert (last[2], last[6]) == (50, "s3999"), "a row keeps the name of its own"
    assert len(header["rows"][0]) == 6


def test_a_large_run_is_sampled_within_its_bound_and_says_so(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    words = ["".join(rng.choice(list("abcdefghij"), 8)) for _ in range(3000)]
    rows = [{"answer": " ".join(rng.choice(words, 150)), "source": "s"} for _ in range(300)]
    run = made_run(tmp_path / "run", rows)
    whole = write_report(run, tmp_path / "whole.html")
    assert whole["rows_shown"] == 300
    bound = 250_000
    facts = write_report(run, tmp_path / "part.html", max_bytes=bound)
    html = (tmp_path / "part.html").read_text(encoding="utf-8")
    assert len(html.encode()) == facts["bytes"] <= bound
    assert 0.5 * bound < facts["bytes"]
    assert f"Of 300 rows, {facts['rows_shown']} are here" in html
    assert "riskiest ones" in html
    header, columns = unpacked(html)
    highest = [row.max() for row in run.scores()]
    riskiest = run.rows["row_id"][int(np.argmax(highest))]
    assert riskiest in [row[0] for row in header["rows"]]
    assert columns["rank0"].max() > len(columns["rank0"]), "ranks are of all rows, not of those shown"


def test_the_three_thirds_are_what_they_are_called(tmp_path: Path) -> None:
    rows = [{"answer": "a b c", "scores": [float(i), -9, -9, -9]} for i in range(90)]
    tokens = load_tokens(made_run(tmp_path / "run", rows))
    chosen = choose_rows(tokens, np.zeros(90), budget=90 * 40 / 3, seed=0)
    assert sorted(chosen["riskiest"]) == list(range(80, 90))
    assert sorted(chosen["median"]) == list(range(40, 50)) or sorted(chosen["median"]) == list(range(39, 49))
    assert len({*chosen["riskiest"], *chosen["median"], *chosen["random"]}) == 30


def test_nothing_of_the_data_is_markup(tmp_path: Path) -> None:
    evil = '<script>alert(1)</script>"><img src=x onerror=alert(1)> {{ 7 * 7 }}'
    run = made_run(tmp_path / "a<b>&c", [{"answer": f"{evil} word", "source": evil} for _ in range(6)])
    write_report(run, tmp_path / "report.html")
    html = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "<img" not in html
    assert "alert(1)</script>" not in html
    assert html.count("<script") == html.count("</script>") == 3, "rows, decisions, and the script"
    assert "&lt;script&gt;alert(1)" in html
    assert "<h1><bdi>a&lt;b&gt;&amp;c</bdi></h1>" in html


def test_the_policy_allows_the_two_own_parts_only(tmp_path: Path) -> None:
    import hashlib

    run = made_run(tmp_path / "run", ROWS)
    write_report(run, tmp_path / "report.html")
    html = (tmp_path / "report.html").read_text(encoding="utf-8")
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]*)"', html)
    policy = policy.replace("&#39;", "'")
    for tag, rule in (("script", "script-src"), ("style", "style-src")):
        (text,) = re.findall(rf"<{tag}>(.*?)</{tag}>", html, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{rule} 'sha256-{digest}'" in policy
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert not re.search(r'\s(style|on\w+)="', html), "inline styles and handlers would not apply"


def test_the_block_cannot_end_its_element() -> None:
    block = encode({"rows": ["</script><!-- \u2028"]}, {"x": np.arange(3, dtype=np.int16)})
    assert re.fullmatch(r"[A-Za-z0-9+/=]+", block)


def test_ticks_are_round_and_inside() -> None:
    assert ticks(0, 1) == [0, 0.2, 0.4, 0.6, 0.8, 1]
    assert ticks(-3, 7) == [-2, 0, 2, 4, 6]
    assert ticks(2, 2) == [2]
    assert all(0.013 <= tick <= 0.97 for tick in ticks(0.013, 0.97))


def test_a_line_ends_where_its_numbers_say() -> None:
    svg = line_chart([Series("a", 1, [0, 10], [0, 5])], x_label="x", y_label="<y>", floor=0)
    (points,) = re.findall(r'class="line c1" points="([^"]*)"', svg)
    first, last = (tuple(map(float, point.split(","))) for point in points.split())
    assert first[0] < last[0]
    assert first[1] > last[1]
    assert first[1] == Axes((0, 10), (0, 5)).bottom, "an axis that ends at its floor has nothing below it"
    assert "&lt;y&gt;" in svg


@given(st.lists(st.floats(-5, 5), min_size=1, max_size=30), st.integers(0, 12))
def test_a_smoothed_curve_is_the_mean_of_what_is_near(values: list[float], width: int) -> None:
    smooth = figures.smoothed(np.array(values), width)
    half = min(width // 2, (len(values) - 1) // 2)
    near = [values[max(0, i - half) : i + half + 1] for i in range(len(values))]
    assert smooth.tolist() == pytest.approx([np.mean(part) for part in near])


def record(method: str, refusal: float, loss: float) -> dict[str, Any]:
    metric = {"low": None, "high": None, "n": 50}
    return {
        "method": method,
        "seed": None,
        "metrics": {"refusal_rate": {"value": refusal} | metric, "utility_loss": {"value": loss} | metric},
    }


def test_the_answer_names_all_methods_that_were_measured() -> None:
    results = [record("base", 0.9, 3.5), record("sft", 0.4, 3.0), record("toss", 0.8, 3.1)]
    measured = Measured(results, own="toss", plain="sft")
    text = story.safety(None, measured)
    assert [*map(text.index, ("90%", "40%", "80%"))] == sorted(map(text.index, ("90%", "40%", "80%")))
    assert "of 50 harmful prompts" in text
    assert "3.50" in story.utility(None, measured)
    assert Strong("3.10") in story.utility(None, measured).pieces
    assert shell.bold(story.utility(None, measured)).count("<b>") == 3
    assert story.safety(None, Measured()) == "Not measured: the diagnosis is not done."
    assert story.utility({"means": {}}, Measured()) == "Not measured: there are no held-out utility rows."
    assert story.safety(None, Measured(results)) == story.safety(None, Measured()), "none of them is this run's model"
    figure = figures.safety_against_utility(results)
    assert figure is not None
    assert [row[0] for row in figure.rows] == ["base", "sft", "toss"]
    assert [name for name, _ in figure.legend] == ["base", "sft", "toss"]
    assert figure.about.startswith("Safety against utility. Better is up and to the right.")
    assert figure.about.endswith("Drawn: base, sft, toss.")
    numbers = re.findall(r'class="name" x="([^"]*)" y="([^"]*)"[^>]*>(\d)<', figure.svg)
    assert [n for _, _, n in numbers] == ["1", "2", "3"]
    assert figures.safety_against_utility(results[:1]) is None


def test_a_method_at_several_scales_is_a_line_through_them() -> None:
    results = [record("base", 0.9, 3.5), record("sft", 0.4, 3.0), record("toss", 0.8, 3.1)]
    results += [record("sft", 0.6, 3.2) | {"scale": 0.6}, record("sft", 0.8, 3.4) | {"scale": 0.3}]
    figure = figures.safety_against_utility(results)
    assert figure is not None
    assert [name for name, _ in figure.legend] == ["base", "sft", "toss"]
    assert [row[0] for row in figure.rows] == ["base", "sft", "toss", "sft x 0.6", "sft x 0.3"]
    (line,) = re.findall(r'<polyline class="line c2" points="([^"]*)"', figure.svg)
    nodes = [tuple(map(float, node.split(","))) for node in line.split()]
    assert nodes == sorted(nodes)  # from the smallest scale, at the base's side, to all of it
    assert len(nodes) == 3
    whole = Measured(results, own="sft").among("refusal_rate")[2]
    assert whole is not None
    assert whole["value"] == 0.4


def test_the_move_toward_the_degraded_reference_is_told_as_a_share_of_the_way() -> None:
    def means(shift: float) -> dict[str, Any]:
        return {"loss": {"mean": 3.0}, "shift": {"mean": shift, "low": shift - 0.02}}

    harmful = {"base": means(0), "model": means(0.3), "sft": means(0.6), "degraded": means(1.2)}
    text = shell.bold(story.safety({"means": {"harmful": harmful}}, Measured()))
    assert "moved <b>25%</b> of the way (0.30 of 1.20 nats)" in text
    assert "plain fine-tuning <b>50%</b>" in text
    # The degraded reference learnt next to nothing, or so little that its interval holds 0.
    for whole in (0.0009, 0.015, -0.5):
        text = shell.bold(story.safety({"means": {"harmful": harmful | {"degraded": means(whole)}}}, Measured()))
        assert "%" not in text
        assert "moved <b>0.30 nats</b> toward the degraded reference, which hardly moved itself (" in text
        assert "plain fine-tuning <b>0.60 nats</b>" in text


def compared(run: Run, method: str, loss: float, **changes: str) -> dict[str, Any]:
    """A compared method's folder, with the run's manifest but for the fingerprints that are changed; its record."""
    manifest = json.loads((run.path / "manifest.json").read_text())
    for step, fingerprint in changes.items():
        manifest["stages"][step]["fingerprint"] = fingerprint
    folder = run.path / f"compare/{method}/seed-{run.config.seed}"
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return record(method, 0.5, loss)


@pytest.mark.long
def test_only_what_was_trained_as_the_run_was_is_the_run(tiny_config: dict[str, Any]) -> None:
    """The first method is the run to the fingerprint; after another selection it is no more."""
    run = tosslm.run({**tiny_config, "selection": {"discard_fraction": 0.1, "evidence": "token"}}, until="finetune")
    assert read_measured(run) == Measured([])
    records = [
        record("base", 0.9, 3.5),
        compared(run, "toss-pro", 3.2, model="other"),
        compared(run, "toss-pro-posterior", 3.1),
        compared(run, "sft", 3.0, model="third"),
    ]
    (run.path / "compare/results.json").write_text(json.dumps({"format": 1, "records": records}))
    assert read_measured(run) == Measured(records, own="toss-pro-posterior", plain="sft")
    assert "3.10" in story.utility(None, read_measured(run))
    run = tosslm.run({**tiny_config, "selection": {"discard_fraction": 0.2, "evidence": "token"}}, until="finetune")
    assert read_measured(run) == Measured(records, own=None, plain="sft")
    run = tosslm.run({**tiny_config, "data": {**tiny_config["data"], "max_length": 64}}, until="finetune")
    assert read_measured(run) == Measured(records)


@pytest.mark.long
def test_beside_an_evaluation_stands_only_what_was_asked_the_same(tiny_config: dict[str, Any]) -> None:
    run = tosslm.run(tiny_config, until="finetune")
    records = [record("base", 0.8, 3.6), *(compared(run, name, 3.0, model=name) for name in ("sft", "random"))]
    other = run.path / f"compare/random/seed-{run.config.seed}/manifest.json"
    changed = json.loads(other.read_text())
    changed["config"]["evaluation"]["max_new_tokens"] = 7
    other.write_text(json.dumps(changed))
    (run.path / "compare/results.json").write_text(json.dumps({"format": 1, "records": records}))
    evaluated = [record("base", 0.9, 3.5), record("model", 0.85, 3.2)]
    (run.path / "evaluation").mkdir(exist_ok=True)
    (run.path / "evaluation/results.json").write_text(json.dumps({"format": 1, "records": evaluated}))
    manifest = json.loads((run.path / "manifest.json").read_text())
    for name in ("base", "model"):
        manifest["stages"][f"evaluation/{name}"] = {"fingerprint": "1", "inputs": {}, "files": {}, "seconds": 1.0}
    (run.path / "manifest.json").write_text(json.dumps(manifest))
    measured = read_measured(tosslm.load_run(run.path))
    assert measured == Measured([*evaluated, records[1]], own="model", plain="sft")


def test_numbers_of_points_that_coincide_do_not() -> None:
    svg = point_chart([Point("a", 1, (1, None, None), (1, None, None))] * 4, x_label="x", y_label="y")
    places = [(float(x), float(y)) for x, y in re.findall(r'class="name" x="([^"]*)" y="([^"]*)"', svg)]
    assert all(math.dist(a, b) > 10 for a, b in combinations(places, 2))


def test_results_of_a_comparison_are_drawn(tmp_path: Path) -> None:
    run = made_run(tmp_path / "run", ROWS)
    write_report(run, tmp_path / "report.html")
    assert "<code>toss compare " in (tmp_path / "report.html").read_text(encoding="utf-8")
    (run.path / "compare").mkdir()
    results = {"format": 1, "records": [record("base", 0.9, 3.5), record("<sft>", 0.4, 3.0)]}
    (run.path / "compare/results.json").write_text(json.dumps(results))
    write_report(run, tmp_path / "report.html")
    html = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "Safety against utility" in html
    assert "&lt;sft&gt;" in html


def test_any_changed_part_of_the_report_makes_it_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "tosslm"
    shutil.copytree(Path(tosslm.__file__).parent, package)
    monkeypatch.setattr("importlib.resources.files", lambda _: package)
    parts = (
        "report/figures.py",
        "report/assets/row.js",
        "report/templates/page.html",
        "findings/story.py",
        "text.py",
    )
    prints = {page.assets_print()}
    for part in (*parts, *(f"report/templates/{section.template}" for section in SECTIONS)):
        (package / part).write_text((package / part).read_text(encoding="utf-8") + "\n", encoding="utf-8")
        prints.add(page.assets_print())
    assert len(prints) == 1 + len(parts) + len(SECTIONS)


def test_warnings_name_what_is_weak(tmp_path: Path) -> None:
    run = made_run(tmp_path / "run", ROWS)
    assert run_warnings(run) == ["2 of 3 custom rows were cut to data.max_length."]


def test_which_cause_weighs_more() -> None:
    def told(learnt: float, forgotten: float, width: float) -> str:
        spread = {
            name: {"mean": mean, "low": mean - width, "high": mean + width, "n": 9}
            for name, mean in (("harm_learnt", learnt), ("refusals_forgotten", forgotten))
        }
        sentence = story.causes({"causes": {"prompts": 12, "refused": 9, "models": {"model": spread}}})
        assert sentence is not None
        return shell.bold(sentence)

    assert "<b>harm learnt</b> weighs more: " in told(4, 1, 0.5)
    assert "<b>refusals forgotten</b> weighs more: " in told(1, 4, 0.5)
    assert "though not clearly" in told(1.2, 1, 0.5)
    assert story.causes(None) is None


@pytest.mark.long
def test_a_changed_comparison_makes_the_report_anew(tiny_config: dict[str, Any]) -> None:
    run = tosslm.run(tiny_config)
    first = (run.path / "report.html").read_bytes()
    tosslm.run(tiny_config)
    assert (run.path / "report.html").read_bytes() == first
    (run.path / "evaluation").mkdir()
    results = {"format": 1, "records": [record("model", 0.8, 3.0)]}
    (run.path / "evaluation/results.json").write_text(json.dumps(results))
    tosslm.run(tiny_config)
    assert "80%" in (run.path / "report.html").read_text(encoding="utf-8")


def own_masks(run: Run) -> list[np.ndarray]:
    """The first two tokens of every other row dropped."""
    return [np.arange(len(row)) >= 2 * (i % 2) for i, row in enumerate(run.scores())]


def test_a_method_without_scores_has_a_report_that_makes_none_up(tmp_path: Path) -> None:
    run = made_run(tmp_path / "run", ROWS)
    keep = own_masks(run)
    run = with_own_choice(run, "first-k", keep, scored=False)
    write_report(run, tmp_path / "report.html")
    html = (tmp_path / "report.html").read_text(encoding="utf-8")
    header, columns = unpacked(html)
    assert "(<bdi>first-k</bdi>): no scores." in html
    assert html.count("<bdi>first-k</bdi> on ") == 1
    assert 'id="panel"' not in html.split("<script")[0]
    assert 'id="least"' not in html.split("<script")[0]
    assert header["kinds"] == []
    assert set(columns) == {"length", "turn", "gap", "size", "gone"}
    assert columns["gone"].tolist() == (~np.concatenate(keep)).tolist()
    assert [row[3] & 1 for row in header["rows"]] == [1, 1, 1], "nobody knows which are harmless"
    assert "<b>2</b> of" in html


def test_a_choice_of_its_own_stands_beside_the_scores(tmp_path: Path) -> None:
    run = made_run(tmp_path / "run", ROWS)
    keep = own_masks(run)
    run = with_own_choice(run, "rows", keep, scored=True)
    write_report(run, tmp_path / "report.html")
    header, columns = unpacked((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert header["ownKind"] is None
    assert [kind["key"] for kind in header["kinds"]] == ["token"]
    assert columns["gone"].tolist() == (~np.concatenate(keep)).tolist()
    gone = {name: 2 if name == "bad" else 0 for name in header["sources"]}
    assert header["sourceGone"] == list(gone.values())
    shown = load_tokens(run).shown
    assert shown is not None
    assert shown.key == "token"


def test_large_runs_without_scores_show_rows_that_lost_most(tmp_path: Path) -> None:
    run = made_run(tmp_path / "run", [{"answer": "a b c"} for _ in range(90)])
    keep = [np.arange(4) >= (i >= 80) for i in range(90)]
    tokens = load_tokens(with_own_choice(run, "oracle", keep, scored=False))
    chosen = choose_rows(tokens, np.zeros(90), budget=90 * 40 / 3, seed=0)
    assert sorted(chosen["lost most"]) == list(range(80, 90))


def test_a_move_that_has_no_direction_is_told_as_a_distance() -> None:
    def means(**values: float) -> dict[str, Any]:
        return {name: {"mean": value} for name, value in values.items()}

    harmful = {"base": means(loss=4), "model": means(loss=3, kl=0.25)}
    text = story.safety({"means": {"harmful": harmful}}, Measured())
    assert text.startswith("On held-out unsafe answers, the model moved 0.25 nats away from the base; their loss")


def test_plain_fine_tuning_is_drawn_where_it_is_of_this_run(tmp_path: Path) -> None:
    run = add_sections(made_run(tmp_path / "run", ROWS))

    def told() -> set[str]:
        diagnosis = read_diagnosis(opened := tosslm.load_run(run.path))
        assert diagnosis is not None
        assert ("sft" in diagnosis["means"]["harmful"]) == (
            "plain fine-tuning" in story.safety(diagnosis, Measured())
        )
        return {record["model"] for record in curve_records(opened, diagnosis)}

    def changed(path: Path, change: Any) -> None:
        content = json.loads(path.read_text())
        change(content)
        path.write_text(json.dumps(content))

    assert told() == {"degraded", "model", "sft"}
    compared = run.layout.compared_curves / "diagnosis.json"
    changed(compared, lambda facts: facts["inputs"].update(data="of other rows"))
    assert told() == {"degraded", "model"}
    changed(compared, lambda facts: facts["inputs"].update(data=run.folder.print_of("data")))
    assert told() == {"degraded", "model", "sft"}
    trained = run.layout.method("sft", run.config.seed) / "manifest.json"
    changed(trained, lambda manifest: manifest["config"]["model"].update(name="another base"))
    assert told() == {"degraded", "model"}


def test_an_adapter_that_the_user_calls_plain_comes_first(tmp_path: Path) -> None:
    run = add_sections(made_run(tmp_path / "run", ROWS))
    path = run.layout.diagnosis / "diagnosis.json"
    facts = json.loads(path.read_text())
    facts["adapters"] = {"sft": "elsewhere"}
    facts["means"]["harmful"]["sft"] = {"loss": {"mean": 7.0}, "shift": {"mean": 0.0}}
    path.write_text(json.dumps(facts))
    diagnosis = read_diagnosis(run)
    assert diagnosis is not None
    assert diagnosis["means"]["harmful"]["sft"]["loss"]["mean"] == 7.0
    assert {record["model"] for record in curve_records(run, diagnosis)} == {"degraded", "model"}


def test_a_curve_that_ends_earlier_leaves_its_cells_empty() -> None:
    def point(model: str, position: int) -> dict[str, Any]:
        return {"set": "harmful", "model": model, "measure": "kl", "position": position, "n": 9} | {
            "mean": 1.0,
            "low": 0.5,
            "high": 1.5,
        }

    records = [point("model", i) for i in range(3)] + [point("sft", i) for i in range(2)]
    (figure,) = figures.divergence_curves(records)
    told = "1.000 (0.500 to 1.500)"
    assert figure.rows == [["1", told, told], ["2", told, told], ["3", told, "-"]]


def test_page_and_navigation_go_by_the_table(tmp_path: Path) -> None:
    write_report(made_run(tmp_path / "run", answers(6)), tmp_path / "report.html")
    html = (tmp_path / "report.html").read_text(encoding="utf-8")
    names = [section.id for section in SECTIONS]
    assert re.findall(r'<section id="(\w+)"', html) == names
    assert re.findall(r'<li><a href="#(\w+)">', html) == names
    templates = Path(page.__file__).parent / "templates/sections"
    assert {path.stem for path in templates.iterdir()} == set(names)
