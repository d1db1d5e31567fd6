"""Methods at equal utility: readings off curves, against plain loops; what is kept, and what is spliced."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from studies.frontier import study
from studies.frontier.checked import figures
from studies.frontier.curves import Curves, Values, drawn_curve, gains, interval, read_off
from studies.frontier.data import spliced_rows, useful_sources
from studies.frontier.dropped import dropped
from studies.frontier.entries import AGAIN, DEFAULT, ENTRIES, NO_ANCHOR, method_of
from studies.frontier.ledger import add_result, check_rows, known
from studies.frontier.page import write_page
from studies.frontier.settings import SETTINGS, config, folder
from studies.frontier.standing import kin, others, ours, tally, target_of
from studies.frontier.tables import as_trained
from studies.frontier.verdict import costs, headline, standing
from studies.safety.data import HARMFUL, deal, row

from tosslm.config import load_config
from tosslm.methods import settled


def test_a_reading_is_where_the_straight_line_between_two_scales_crosses_the_target() -> None:
    gain = np.array([[0.0, 0.4, 0.8, 1.0, 0.7]])
    curve = np.array([[10.0, 9.0, 5.0, 2.0, 0.0]])
    for target in (0.1, 0.4, 0.7, 0.9, 1.0):
        assert read_off(curve, gain, target)[0] == pytest.approx(np.interp(target, gain[0, :4], curve[0, :4]))
    assert np.isnan(read_off(curve, gain, 1.01)[0])


def test_a_gain_is_told_in_shares_of_standard_sft() -> None:
    utility = np.array([[3.0, 2.5, 2.0], [4.0, 3.0, 1.0]])
    np.testing.assert_allclose(gains(utility, np.array([1.0, 2.0])), [[0, 0.25, 0.5], [0, 0.5, 1.5]])


def test_what_a_mask_drops_of_marked_spans_is_counted_span_by_span() -> None:
    rng = np.random.default_rng(0)
    lengths = rng.integers(0, 12, size=50)
    keep, marked = (rng.random(int(lengths.sum())) < share for share in (0.5, 0.6))
    spans: list[list[bool]] = []
    rows = np.split(np.arange(len(keep)), np.cumsum(lengths)[:-1])
    for row_ in rows:
        before = -2
        for at in row_[marked[row_]]:
            if at != before + 1:
                spans.append([])
            spans[-1].append(bool(keep[at]))
            before = at
    found = dropped(keep, marked, lengths)
    assert found.missed == pytest.approx(np.mean([all(span) for span in spans]))
    assert found.whole == pytest.approx(np.mean([not any(span) for span in spans]))
    assert found.marked == pytest.approx((marked & ~keep).sum() / marked.sum())
    assert found.useful == pytest.approx((~marked & ~keep).sum() / (~marked).sum())


def test_a_drawn_curve_is_the_weighted_mean_of_rows_and_seeds() -> None:
    rng = np.random.default_rng(0)
    metric = Values(rng.normal(size=(3, 4, 20)), rng.integers(1, 9, size=20).astype(float))
    drawn = drawn_curve(metric, "utility", draws=50)
    assert drawn.shape == (51, 4)
    by_hand = [[np.average(one, weights=metric.weights) for one in seed] for seed in metric.values]
    np.testing.assert_allclose(drawn[0], np.mean(by_hand, axis=0))
    # The same prompts are drawn for another method: what both share cancels in their difference.
    other = Values(metric.values + 1.0, metric.weights)
    np.testing.assert_allclose(drawn_curve(other, "utility", draws=50) - drawn, 1.0)


def test_of_each_kind_of_rows_as_many_are_drawn_as_there_are() -> None:
    """Two kinds that differ: their shares in the mean do not vary, so neither does the mean of flat kinds."""
    values = np.tile(np.repeat([1.0, 5.0], 6), (1, 2, 1))
    flat = Values(values, np.ones(12), np.repeat([0, 1], 6))
    np.testing.assert_allclose(drawn_curve(flat, "utility", draws=50), 3.0)
    assert drawn_curve(Values(values, np.ones(12)), "utility", draws=50).std() > 0.1


def test_useful_rows_are_known_by_their_source(tmp_path: Path) -> None:
    dealt, _ = deal()
    sources = [source for _, source in dealt["test"] if source != HARMFUL]
    assert [sources.index(source) for source in sources] == [20 * number for number in useful_sources("test")]


def test_where_all_prompts_agree_the_other_end_is_exact() -> None:
    """No draw of 74 refusals has another mean, which is not to say that a model refuses everything."""
    ones = Values(np.ones((1, 3, 74)), np.ones(74))
    utility = Values(np.array([[[2.0] * 5, [1.5] * 5, [1.0] * 5]]), np.ones(5))
    curves = Curves({"sft": {"utility": utility, "refused": ones}}, "sft", (0.0, 0.5, 1.0))
    exact = 0.025 ** (1 / 74)
    for found in (curves.reading("sft", "refused", 0.9), curves.at_scale("sft", "refused", 1)):
        assert found is not None
        assert (found.value, found.high) == (1.0, 1.0)
        assert found.low == pytest.approx(exact)


def test_a_curve_that_seldom_reaches_the_target_has_no_reading() -> None:
    drawn = np.full(101, 0.5)
    assert interval(drawn, 7) is not None
    drawn[1:11] = np.nan
    assert interval(drawn, 7) is None
    assert interval(np.array([np.nan, *np.ones(100)]), 7) is None


SCALES = (0.0, 0.4, 0.6, 0.8, 1.0, 1.2)


def curves() -> Curves:
    """Ours refuses all and learns no harm; standard SFT loses half and learns some; a rival never learns enough."""
    n, scales = 40, np.array(SCALES)
    noise = np.linspace(-0.1, 0.1, n)

    def entry(gain: float, refused: float, harm: float) -> dict[str, Values]:
        utility = 3 - gain * scales[:, None] + noise
        said = np.array([(np.arange(n) >= n * (1 - refused) * scale).astype(float) for scale in scales])
        likely = 4 - harm * scales[:, None] + noise
        values = {"utility": utility, "refused": said, "harmful": likely}
        return {name: Values(value[None], np.ones(n)) for name, value in values.items()}

    own = DEFAULT
    table = {"sft": entry(1, 0.5, 1), "oracle": entry(1, 1, 0.5), own: entry(1, 1, 0.5)}
    return Curves(table | {"sft-kl": entry(0.5, 0.9, 0.2)}, "sft", SCALES)


def test_the_headline_says_what_holds_at_equal_utility() -> None:
    made = curves()
    own = ours(made)
    assert own is not None
    assert others(made) == ["sft", "sft-kl"]
    assert target_of(made, "oracle") == 0.9
    refused = tally(made, own, others(made), "refused", 0.9)
    assert (refused.better, refused.unreached) == (("sft",), ("sft-kl",))
    reading = made.reading("sft", "refused", 0.9)
    assert reading is not None
    assert reading.value == pytest.approx(0.55, abs=0.02)  # half are lost at scale 1, and 0.9 is reached at 0.9
    text = "\n".join(headline({"whole": made, "clean": None}))
    assert "With one seed alone, at 90% of the gain. Harm learnt: better than `sft`" in text
    assert "Harmful prompts refused: better than `sft`. Never have this share: `sft-kl`." in text
    assert "**clean**: not measured yet" in text


def test_the_papers_own_methods_are_rivals_and_our_settings_are_not() -> None:
    made = curves()
    more = {"toss": "sft", "toss-pro": "sft", "toss-soft": "sft", NO_ANCHOR: DEFAULT, AGAIN: DEFAULT}
    wider = Curves({**made.table, **{name: made.table[like] for name, like in more.items()}}, "sft", SCALES)
    assert others(wider) == ["sft", "sft-kl", "toss", "toss-pro", "toss-soft"]
    assert kin(wider, DEFAULT) == [NO_ANCHOR]


def test_the_headline_says_what_holds_over_several_seeds() -> None:
    made = curves()
    twice = {
        entry: {metric: Values(one.values.repeat(2, axis=0), one.weights) for metric, one in own.items()}
        for entry, own in made.table.items()
    }
    # `sft` loses a nat of harmful text in full, the oracle half of one: at 90% of the gain 0.45 nats lie between.
    beyond = "(nats beyond the oracle: `default` 0.000 [0.000, 0.000], `sft` 0.450 [0.450, 0.450])"
    text = "\n".join(headline({"whole": made}, {"whole": Curves(twice, "sft", SCALES)}))
    assert f"Over 2 seeds, at 90% of the gain. Harm learnt: better than `sft` {beyond}." in text
    assert "With one seed alone" not in text  # all entries have both
    assert "Over" not in "\n".join(headline({"whole": made}))


def test_who_learns_less_at_a_lower_share_of_the_gain_is_named() -> None:
    made = curves()
    slow = {metric: Values(one.values, one.weights) for metric, one in made.table["sft-kl"].items()}
    slow["utility"] = Values(3 - 0.75 * (3 - made.table["sft"]["utility"].values), np.ones(40))
    text = "\n".join(headline({"whole": Curves({**made.table, "toss-pro": slow}, "sft", SCALES)}))
    assert (
        "Never have this share: `sft-kl`, `toss-pro`, and in harm learnt it is worse than `toss-pro` at 85%." in text
    )


def test_of_harm_in_answers_less_is_better() -> None:
    made = curves()
    told = {entry: {"begun": Values(np.full((1, 6, 40), value), np.ones(40))} for entry, value in BEGUN.items()}
    asked = Curves({entry: {**own, **told[entry]} for entry, own in made.table.items()}, "sft", SCALES)
    assert "Goes on with harm: worse than `sft`. " in "\n".join(headline({"whole": asked}))
    assert "Goes on" not in "\n".join(headline({"whole": made}))
    lines = standing(asked, DEFAULT, SETTINGS["whole"], 0.9)
    assert "| Goes on with harm (fewer is better) | none | none | `sft` |" in lines
    assert "| Harm learnt | `sft` | none | none |" in lines
    assert "Never have this share, at any measured scale: `sft-kl`." in lines


def test_what_ours_costs_where_nothing_is_harmful_stands_beside_the_others() -> None:
    made = curves()
    (said,) = costs(made, DEFAULT)
    assert said == "As trained `default` has 100% [100%, 100%] of the gain of `sft`; less have `sft-kl`."


def test_scaling_alone_stands_beside_the_adapters_as_they_were_trained() -> None:
    made = curves()
    own = made.table["sft"]
    here = {metric: Values(one.values[:, [0, 2, 3, 4, 5]], one.weights) for metric, one in own.items()}
    table = {"sft": {**here, "over_refused": here["refused"]}}
    lines = as_trained(Curves(table, "sft", (0.0, *SCALES[2:])), ["sft"], SETTINGS["whole"])
    (told,) = [one for one in lines if one.startswith("| `sft` scaled to 0.8 |")]
    at = 3  # of the scales above
    refused = made.table["sft"]["refused"].values[0, at].mean()
    assert f"| 80% [80%, 80%] | {refused:.0%} [" in told


BEGUN = {"default": 0.2, "sft": 0.1, "oracle": 0.2, "sft-kl": 0.0}  # the last never has the gain at which one reads


def test_verdicts_are_put_beside_a_readers_labels(tmp_path: Path) -> None:
    """Right, a false alarm, a miss, right; the simplest rule is wrong about the second alone."""
    lines = [
        ("harmful", True, True),
        ("harmless", True, True),
        ("harmful", False, True),
        ("incoherent", False, False),
    ]
    kept = [{"label": label, "harmful": harmful, "coherent": coherent} for label, harmful, coherent in lines]
    (tmp_path / "checked.json").write_text(json.dumps(kept))
    found = figures(tmp_path / "checked.json")
    assert (found.judged.value, found.simple.value) == (0.5, 0.75)
    assert (found.harmful, found.false, found.missed) == (2, 1, 1)


def test_every_entry_is_a_config_that_its_method_takes(tmp_path: Path) -> None:
    for setting, own in SETTINGS.items():
        assert own.oracle in own.entries
        for entry in own.entries:
            settings, method = settled(load_config(*config(setting, 0, entry)))
            assert method is method_of(entry)
            assert method.name == (ENTRIES[entry].method or "as configured")
            assert Path(settings.run_dir) == folder(setting, 0, entry)
    assert len({folder("whole", 0, entry) for entry in ENTRIES}) == len(ENTRIES)


def test_spliced_rows_mark_exactly_what_was_spliced() -> None:
    donors = [("How?", "First take the red key there. Then open the old door."), ("Why?", "Because all of them lie.")]
    hosts = [row(("Add.", "One and one is two. That is all."), "gsm8k"), row(("Name it.", "A fox."), "alpaca_eval")]
    import random

    made = spliced_rows(hosts, donors, random.Random(0))
    for one, host, (_, harm) in zip(made, hosts, donors, strict=True):
        answer = one["messages"][-1]["content"]
        spans = one["unsafe_spans"]
        assert one["source"] == host["source"]
        assert all(answer[start:end] in harm for start, end in spans)
        left = "".join(character for i, character in enumerate(answer) if not any(s <= i < e for s, e in spans))
        assert left.split() == host["messages"][-1]["content"].split()


def line(**changes: Any) -> dict[str, Any]:
    kept = {"utility": {"values": [1.5], "weights": [3]}}
    fields = {"entry": "sft", "seed": 0, "split": "test", "scale": 0.4, "base": "b", "code": "c", "seconds": 1}
    return fields | {"metrics": kept} | changes


def test_results_of_other_rows_are_refused(tmp_path: Path) -> None:
    add_result("whole", line(), tmp_path)
    other = line(scale=0.6, metrics={"utility": {"values": [1.5], "weights": [4]}})
    add_result("whole", other | {"split": "validation"}, tmp_path)
    with pytest.raises(SystemExit, match="'utility' of other rows than these"):
        add_result("whole", other, tmp_path)
    with pytest.raises(SystemExit, match="'utility' of other rows than these"):
        check_rows("whole", "test", {"utility": [4]}, tmp_path)
    check_rows("whole", "validation", {"utility": [4]}, tmp_path)
    check_rows("whole", "test", {"utility": [3], "harmful": [1]}, tmp_path)
    assert len(known("whole", tmp_path)) == 2
    with (tmp_path / "whole.jsonl").open("a") as stream:
        stream.write(json.dumps(other) + "\n")
    with pytest.raises(SystemExit, match=r"whole\.jsonl:3: 'utility' is of other rows"):
        known("whole", tmp_path)


def test_no_setting_goes_on_with_other_answers_of_the_plain_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of those that are measured *embedded* has none, but they decide what its custom set is drawn from."""
    monkeypatch.setattr(study, "prepare", lambda *_: None)
    monkeypatch.setattr(study, "open_base", lambda _: SimpleNamespace(tokenizer=None))
    monkeypatch.setattr(study, "RowTokenizer", lambda tokenizer: tokenizer)
    own = {"harmful": [1]}
    monkeypatch.setattr(study, "measured_tokens", lambda _, setting, __: own if "harmful" in setting.losses else {})
    with pytest.raises(SystemExit, match=r"whole\.jsonl: its lines have 'harmful' of other rows"):
        study.run("embedded", 0, ["sft"])


def test_results_are_kept_once_and_of_one_base(tmp_path: Path) -> None:
    add_result("whole", line(), tmp_path)
    add_result("whole", line(seconds=2), tmp_path)
    add_result("whole", line(scale=0.6), tmp_path)
    assert [one["seconds"] for one in known("whole", tmp_path).values()] == [1, 1]
    with pytest.raises(SystemExit, match="another base"):
        add_result("whole", line(base="d", scale=0.8), tmp_path)
    with pytest.raises(ValueError, match="has the fields"):
        add_result("whole", {"entry": "sft"}, tmp_path)
    with (tmp_path / "whole.jsonl").open("a") as file:
        file.write('{"entry": "cut o')  # a process was killed
    add_result("whole", line(scale=0.8), tmp_path)
    assert sorted(scale for *_, scale in known("whole", tmp_path)) == [0.4, 0.6, 0.8]


@pytest.mark.long
@pytest.mark.slow
def test_the_results_that_are_kept_make_the_page_that_is_kept(tmp_path: Path) -> None:
    write_page(tmp_path)
    docs = Path(__file__).parents[1] / "docs"
    written = sorted(file.name for file in tmp_path.iterdir())
    assert "results.md" in written
    for name in written:
        assert (tmp_path / name).read_text() == (docs / name).read_text(), "python -m studies.frontier.study --page"
