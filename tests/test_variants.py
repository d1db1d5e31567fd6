"""Variants of the paper's selection: weighed losses, soft weights, no context, harmful rows that a guard relabels."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tosslm
from support.benches import select_in
from support.made_run import made_run
from test_methods import CONFIG, material
from tosslm.config import ClassifierConfig, load_config
from tosslm.errors import InputError
from tosslm.evaluation.answers import Answer
from tosslm.export.counts import count_rows
from tosslm.export.lost import lost
from tosslm.export.rows import masked_rows
from tosslm.files import write_parquet
from tosslm.methods import registry, settled
from tosslm.methods.soft import TEMPERATURE, soft_weights
from tosslm.runs.tables import SCORE_SCHEMA, read_keep, stored_rows
from tosslm.training.labels import training_row, without_dropped
from tosslm.training.masked import selective_rows

# --- selection.alpha and selection.beta


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two rows, of three response tokens each (two words and the end of turn), with losses worked out below."""
    run = made_run(tmp_path / "run", [{"answer": "one two"}, {"answer": "three four"}])
    columns = {
        "row_id": run.rows["row_id"],
        "position": [[1, 2, 3]] * 2,
        "loss_utility": [[1.0, 2.0, 6.0], [5.0, 4.0, 0.0]],
        "loss_degraded": [[0.0, 3.0, 4.5], [4.5, 1.0, 1.0]],
    }
    write_parquet(run.path / "scores/round-0/part-00000.parquet", columns, SCORE_SCHEMA, "made")
    return run.path


@pytest.mark.parametrize(
    ("alpha", "beta", "ranked", "kept"),
    [
        # utility - degraded
        (1, 1, None, [[True, True, False], [True, False, True]]),
        # utility alone: 1 2 6 | 5 4 0
        (1, 0, [1, 2, 6, 5, 4, 0], [[True, True, False], [False, True, True]]),
        # minus the degraded loss: 0 -3 -4.5 | -4.5 -1 -1; of equal ones the earlier goes
        (0, 1, [0, -3, -4.5, -4.5, -1, -1], [[False, True, True], [True, False, True]]),
        # 2 utility - degraded: 2 1 7.5 | 5.5 7 -1
        (2, 1, [2, 1, 7.5, 5.5, 7, -1], [[True, True, False], [True, False, True]]),
    ],
)
def test_losses_are_weighed_before_tokens_are_ranked(
    folder: Path, alpha: float, beta: float, ranked: list[float] | None, kept: list[list[bool]]
) -> None:
    facts = select_in(folder, discard_fraction=0.34, alpha=alpha, beta=beta)
    assert [row.tolist() for _, row in read_keep(folder / "selection/keep.parquet")] == kept
    stored = folder / "selection/evidence.parquet"
    if ranked is None:
        assert facts["evidence"] == "token"
        assert not stored.exists()
        return
    assert [value for row in stored_rows(stored) for value in row["evidence"]] == ranked
    assert (facts["evidence"], facts["alpha"], facts["beta"]) == ("weighted", alpha, beta)
    assert facts["threshold"] == sorted(ranked)[-2]


def test_weighed_losses_fit_what_the_report_is_made_of(folder: Path) -> None:
    """The page names the ranking, and shows its values beside the paper's score."""
    from tosslm.report.tokens import load_tokens

    facts = select_in(folder, discard_fraction=0.34, alpha=2)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["stages"]["selection"] |= facts
    (folder / "manifest.json").write_text(json.dumps(manifest))
    tokens = load_tokens(tosslm.load_run(folder))
    assert tokens.own_kind is not None
    own = tokens.rankings[tokens.own_kind]
    assert (own.label, own.unit) == ("Weighted score", "nats")
    assert own.values[:].tolist() == [2, 1, 7.5, 5.5, 7, -1]
    assert np.concatenate(list(tokens.dropped(own, 0.34))).tolist() == tokens.gone[:].tolist()


def test_weights_of_losses_that_mean_nothing_are_refused() -> None:
    for settings, message in (
        (["selection.alpha=0", "selection.beta=0"], "both 0, which ranks nothing"),
        (["selection.alpha=2", "selection.evidence=posterior"], "alpha 2 and beta 1 go with evidence: token"),
        (["selection.beta=-1"], r"selection\.beta"),
    ):
        with pytest.raises(InputError, match=message):
            load_config(CONFIG, settings)
    with pytest.raises(InputError, match=r"selection\.alpha: method toss sets 1\.0, the config says 2"):
        settled(
            load_config(
                CONFIG,
                ["method=toss", "selection.alpha=2", "selection.evidence=token", "selection.discard_fraction=0.1"],
            )
        )


# --- soft weights


def test_a_soft_weight_is_a_sigmoid_of_what_is_left_to_the_threshold() -> None:
    # Of five tokens two would be dropped, 3 and 2; the threshold lies halfway between 2 and 1.
    scores = np.array([3.0, 1.0, -1.0, 2.0, 0.5])
    expected = [1 / (1 + math.exp(-(1.5 - score) / 0.5)) for score in scores]
    np.testing.assert_allclose(soft_weights(scores, 0.4, 0.5), expected, rtol=1e-6)


def test_the_colder_the_nearer_to_the_mask() -> None:
    scores = np.random.default_rng(0).normal(size=200).astype(np.float32)
    keep = tosslm.select_tokens(scores, 0.3)
    np.testing.assert_allclose(soft_weights(scores, 0.3, 1e-6), keep, atol=1e-3)
    np.testing.assert_allclose(soft_weights(scores, 0.3, 1e6), 0.5, atol=1e-3)
    assert (soft_weights(scores, 0.0, 1.0) == 1).all()
    assert (soft_weights(np.full(4, 2.0), 0.5, 1.0) == 0.5).all()


def test_toss_soft_weighs_all_tokens_and_drops_none() -> None:
    weigh, choose = registry()["toss-soft"].token_weights, registry()["toss-soft"].choose
    assert weigh is not None
    assert choose is not None
    own = material(signals={TEMPERATURE: np.array(2.0)})
    assert choose(own).all()
    # Scores: 8 -1 -2 -3 3 2 -6 -7 -8 7; of ten the three highest, 8, 7 and 3, lie above 2.5.
    scores = own.loss_utility - own.loss_degraded
    np.testing.assert_allclose(weigh(own), 1 / (1 + np.exp((scores - 2.5) / 2)), rtol=1e-5)


def test_the_weights_of_an_earlier_method_go(folder: Path) -> None:
    weights = tosslm.load_run(folder).layout.weights
    weights.touch()
    select_in(folder, discard_fraction=0.34)
    assert not weights.exists()


# --- selection.context: drop


def test_a_dropped_token_stands_in_the_input_no_more() -> None:
    mask, keep = [False, True, True, False, True, True], [True, False, False, True]
    row = training_row([10, 11, 12, 13, 14, 15], mask, keep, weights=[0.1, 0.2, 0.3, 0.4])
    made = without_dropped(row, mask, keep)
    assert made["input_ids"] == [10, 11, 13, 15]
    assert made["labels"] == [-100, 11, -100, 15]
    assert made["weight"] == [0.0, 0.1, 0.0, 0.4]
    assert made["response_tokens"] == 4  # what `normalize: all` divides by


def test_rows_without_their_dropped_tokens_are_the_kept_ones_of_the_mask(folder: Path) -> None:
    select_in(folder, discard_fraction=0.34)
    layout = tosslm.load_run(folder).layout
    for row, whole, (_, keep) in zip(
        selective_rows(layout, drop_context=True), selective_rows(layout), read_keep(layout.keep), strict=True
    ):
        stays = [True, *keep.tolist()]  # one token of the prompt stands before the answer
        assert row["input_ids"] == [token for token, stay in zip(whole["input_ids"], stays, strict=True) if stay]
        assert -100 not in row["labels"][1:]


def test_dropped_context_does_not_go_with_anchors() -> None:
    settings = ["selection.context=drop", "finetune.dropped=anchor"]
    with pytest.raises(InputError, match=r"context: drop .* and finetune\.dropped: anchor holds"):
        load_config(CONFIG, settings)
    load_config(CONFIG, [*settings, "finetune.anchor_weight=0"])  # nothing is anchored


def test_an_export_says_that_it_leaves_dropped_tokens_in(folder: Path) -> None:
    select_in(folder, discard_fraction=0.34)
    counts = count_rows(masked_rows(tosslm.load_run(folder).layout))
    for context, told in (("keep", 0), ("drop", 1)):
        config, method = settled(load_config(CONFIG, [f"selection.context={context}", "finetune.dropped=ignore"]))
        said = lost(config, method, counts, base=("base", None), kind="trl", weighs=False)
        assert sum("takes the 2 dropped tokens out of the run's input" in one for one in said) == told


@pytest.mark.long
@pytest.mark.slow
def test_without_context_another_model_is_trained_by_the_same_mask(
    tiny_config: dict[str, Any], tmp_path: Path
) -> None:
    plain = tosslm.run(tiny_config | {"refinement": {}}, until="finetune")
    before = dict(plain.stages)
    selection = tiny_config["selection"] | {"context": "drop"}
    own = tosslm.run(tiny_config | {"refinement": {}, "selection": selection}, until="finetune")
    assert own.stages["selection"] == before["selection"]
    assert own.stages["model"]["fingerprint"] != before["model"]["fingerprint"]
    rows, dropped = tosslm.masked_dataset(own), int(sum((~keep).sum() for keep in own.keep()))
    read = own.stages["data"]["sets"]["custom"]["tokens"] - dropped
    assert sum(len(ids) for ids in rows["input_ids"]) == read
    assert own.stages["model"]["tokens"] == read * tiny_config["finetune"]["epochs"]


# --- references.harmful_tokens: guard


def test_a_guard_has_to_be_named() -> None:
    with pytest.raises(InputError, match=r"harmful_tokens: guard asks a guard model; name one in compare\.guard"):
        load_config(CONFIG, ["references.harmful_tokens=guard"])


@pytest.mark.long
@pytest.mark.slow
def test_the_degraded_reference_learns_what_the_guard_calls_unsafe(
    tiny_config: dict[str, Any], tiny_model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A guard that finds the first half of an answer safe, and of some rows all."""

    def strict(model: Any, tokenizer: Any, answers: Sequence[Answer], config: ClassifierConfig) -> list[bool]:
        return [len(answer.answer) > 60 and len(answer.prompt) % 3 > 0 for answer in answers]

    monkeypatch.setattr("tosslm.evaluation.classifiers.classify_attacks", strict)
    plain = tosslm.run(tiny_config, until="references")
    utility = plain.stages["references/utility"]
    all_tokens = plain.stages["references/degraded/round-0"]["trained_tokens"]
    references = tiny_config["references"] | {"harmful_tokens": "guard"}
    guard = {"guard": {"model": str(tiny_model_folder)}, "guard_segment": 4}
    own = tosslm.run(tiny_config | {"references": references, "compare": guard}, until="refine")
    assert own.stages["references/utility"] == utility
    wanted = 0
    held = {row["row_id"] for row in stored_rows(own.layout.heldout(0)) if row["set"] == "harmful"}
    for row in stored_rows(own.layout.rows("harmful")):
        prompt = json.loads(row["messages"])[-2]["content"]
        if row["row_id"] in held or len(prompt) % 3 == 0:
            continue
        ends = [end for _, _, end in row["offsets"]]
        for start in range(0, len(ends), 4):
            segment = ends[start : start + 4]
            wanted += len(segment) * (max(ends[: start + len(segment)]) > 60)
    trained = own.stages["references/degraded/round-0"]["trained_tokens"]
    assert 0 < trained == wanted < all_tokens
    assert "the guard finds nothing unsafe" in (own.path / "run.log").read_text()
    assert own.stages["references/degraded/round-1"]["trained_tokens"] >= trained
