"""Each method's defining property, on a case small enough to work out by hand."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from conftest import demo_rows, write_rows
from tosslm.config import ModelConfig, TrainingConfig, load_config
from tosslm.data.tokenize import RowTokenizer
from tosslm.errors import InputError
from tosslm.methods import find_methods, oracle, registry, seal, star_dss
from tosslm.methods.alignment import add_gradients
from tosslm.methods.constrained import constrained_loss
from tosslm.methods.dsir import log_importance, ngram_counts
from tosslm.methods.guard import segment_values
from tosslm.methods.material import Material
from tosslm.methods.method import drop_rows_in_order
from tosslm.methods.needs import read_safety
from tosslm.methods.safeinstr import drawn_safety_rows
from tosslm.methods.seal import relative_weights, selector_loss, train_selector, upper_weight
from tosslm.model import head
from tosslm.model.adapters import fresh_adapter
from tosslm.model.base import Base, open_base
from tosslm.model.head import SplitHead
from tosslm.progress import SilentReporter
from tosslm.ragged import answer_positions
from tosslm.training.labels import places_of

SHARE = "selection.discard_fraction=0.3"
CONFIG = {"data": {name: {"path": "x.jsonl"} for name in ("custom", "harmful", "utility")}}


def material(**changes: Any) -> Material:
    """Three rows of 4, 2 and 4 response tokens; the last one is two answers of 2."""
    fields: dict[str, Any] = {
        "lengths": np.array([4, 2, 4]),
        "answers": np.array([4, 2, 2, 2]),
        "sources": np.array(["good", "bad", "good"], dtype=object),
        "texts": ["a b", "c d", "a c"],
        "target_texts": ["a b a b"],
        "loss_degraded": np.array([1, 2, 3, 4, 5, 6, 7, 8, 9, 0], dtype=np.float32),
        "loss_utility": np.array([9, 1, 1, 1, 8, 8, 1, 1, 1, 7], dtype=np.float32),
        "signals": {
            seal.ROW_WEIGHTS: np.array([1.5, 0.5, 1.0]),
            oracle.MARKED: np.array([0, 1, 0, 0, 0, 0, 0, 0, 1, 1], dtype=bool),
            star_dss.UNSAFE: np.array([0, 0, 1, 1, 0, 0, 0, 0, 0, 0], dtype=bool),
        },
        "discard_fraction": 0.3,
        "harmful_sources": frozenset({"bad"}),
        "seed": 0,
    }
    return Material(**fields | changes)


def dropped(name: str, **changes: Any) -> list[int]:
    choose = registry()[name].choose
    assert choose is not None
    mask = choose(material(**changes))
    assert mask.dtype == bool
    return np.flatnonzero(~mask).tolist()


def test_sft_drops_nothing() -> None:
    assert dropped("sft") == []


def test_random_drops_as_many_as_toss_and_each_token_as_often() -> None:
    counts = np.zeros(10)
    for seed in range(600):
        places = dropped("random", seed=seed)
        assert len(places) == 3
        counts[places] += 1
    assert dropped("random", seed=1) == dropped("random", seed=1)
    # 600 draws of 0.3: 180 each, with a standard deviation of 11.
    assert np.all(np.abs(counts - 180) < 50)


def test_first_k_takes_all_first_tokens_before_any_second() -> None:
    assert dropped("first-k") == [0, 4, 6]  # floor(0.3 * 10) of the four first tokens, the earlier rows first
    assert dropped("first-k", discard_fraction=0.5) == [0, 1, 4, 6, 8]


def test_a_single_loss_ranks_alone() -> None:
    assert dropped("degraded-only") == [0, 1, 9]  # losses 1, 2, 0: what the degraded reference finds likeliest
    assert dropped("utility-only") == [0, 4, 5]  # losses 9, 8, 8


def test_rows_drops_whole_rows_by_their_mean_score() -> None:
    # Scores: 8 -1 -2 -3 | 3 2 | -6 -7 -8 7, means 0.5, 2.5, -3.5: token 0 is the riskiest, row 1 is.
    assert dropped("rows") == [4, 5]
    # A budget of 4 tokens: row 1, then two are left, and no row of 2.
    assert dropped("rows", discard_fraction=0.4) == [4, 5]
    assert dropped("rows", discard_fraction=0.6) == [0, 1, 2, 3, 4, 5]


def test_a_row_that_does_not_fit_is_passed_over() -> None:
    kept = drop_rows_in_order(material(discard_fraction=0.25), np.array([0, 1, 2]))
    assert kept.tolist() == [True, False, True]
    assert drop_rows_in_order(material(discard_fraction=0.0), np.array([0, 1, 2])).all()


def test_the_oracle_of_tokens_drops_exactly_the_marked_ones() -> None:
    assert dropped("oracle-tokens") == [1, 8, 9]
    assert dropped("oracle-tokens", discard_fraction=0.0) == [1, 8, 9]


def test_the_oracle_drops_exactly_the_harmful_sources() -> None:
    assert dropped("oracle") == [4, 5]
    assert dropped("oracle", discard_fraction=0.0) == [4, 5]
    with pytest.raises(InputError, match="there are: bad, good"):
        dropped("oracle", harmful_sources=frozenset({"ugly"}))
    with pytest.raises(InputError, match=r"compare\.harmful_sources"):
        registry()["oracle"].check(load_config(CONFIG))


def test_dsir_weighs_by_hashed_words_and_pairs() -> None:
    assert ngram_counts("A b, a B").sum() == 5 + 4  # five words, four pairs, in lower case
    assert ngram_counts("A b").tolist() == ngram_counts("a  B").tolist()
    # Raw: a 2, b 1, c 2, d 1 and a pair each: a b, c d, a c. Target: a 2, b 2, a b 2, b a 1.
    raw = {"a": 2, "b": 1, "c": 2, "d": 1, "a b": 1, "c d": 1, "a c": 1}
    target = {"a": 2, "b": 2, "a b": 2, "b a": 1}
    expected = [
        sum(math.log(target.get(g, 0) / 7 + 1e-8) - math.log(raw[g] / 9 + 1e-8) for g in grams)
        for grams in (["a", "b", "a b"], ["c", "d", "c d"], ["a", "c", "a c"])
    ]
    weights = log_importance(["a b", "c d", "a c"], ["a b a b"])
    np.testing.assert_allclose(weights, expected)


def test_dsir_keeps_what_looks_like_the_target() -> None:
    assert dropped("dsir") == [4, 5]  # "c d" shares nothing with the target; noise is far smaller than that
    texts = ["same words"] * 3
    drawn = {tuple(dropped("dsir", texts=texts, lengths=np.array([3, 3, 4]), seed=seed)) for seed in range(40)}
    assert len(drawn) >= 2  # of equal rows chance decides


def test_constrained_loss_against_its_formula_and_gradient() -> None:
    losses = torch.tensor([2.0, 1.0, 3.0, 0.5, 2.0, 0.7, 4.0], requires_grad=True)
    base = torch.tensor([2.0, 2.0, 1.0, 0.5, 1.0, 3.0, 4.0])
    positions = torch.tensor([0, 1, 2, 3, 4, 5, 60])
    beta = [0.5, 2.0, 2.0, 2.0, 2.0, 0.1, 0.1]
    got = constrained_loss(losses, base, positions)
    for i, b in enumerate(beta):
        ratio = math.exp(-losses[i].item()) / math.exp(-base[i].item())
        assert got[i].item() == pytest.approx(-2 / b * math.log(1 / (1 + math.exp(-b * math.log(ratio)))), rel=1e-5)
    got.sum().backward()
    # Where the model is the base still, the gradient is that of plain cross-entropy.
    assert losses.grad is not None
    assert losses.grad[[0, 3, 6]].tolist() == pytest.approx([1, 1, 1])
    # A token that the model has made likelier pulls less, and more so under a high beta.
    assert losses.grad[1] < losses.grad[5] < 1


def test_star_dss_marks_segments_as_the_answer_grows() -> None:
    """A guard that hears "bomb", and speaks no more once it hears "sorry"."""
    turns = [
        {"role": "user", "content": "q"},
        {"role": "assistant", "content": "ok a bomb then"},
        {"role": "user", "content": "r"},
        {"role": "assistant", "content": "so sorry"},
    ]
    first = [[1, 0, 2], [1, 2, 4], [1, 4, 9], [1, 9, 14], [-1, -1, -1]]
    second = [[3, 0, 2], [3, 2, 8], [-1, -1, -1]]
    seen: list[tuple[str, str]] = []

    def guard(answers: Any) -> list[bool | None]:
        seen.extend((answer.prompt, answer.answer) for answer in answers)
        return [None if "sorry" in answer.answer else "bomb" in answer.answer for answer in answers]

    values = segment_values([{"messages": json.dumps(turns), "offsets": first + second}], 2, guard)
    assert seen == [
        ("q", "ok a"),
        ("q", "ok a bomb then"),
        ("q", "ok a bomb then"),
        ("r", "so sorry"),
        ("r", "so sorry"),
    ]
    np.testing.assert_array_equal(values, [0, 0, 1, 1, 1, np.nan, np.nan, np.nan])
    assert dropped("star-dss-hard") == [2, 3]
    assert dropped("star-dss") == []
    for name in ("star-dss", "star-dss-hard"):
        with pytest.raises(InputError, match=r"compare\.guard"):
            registry()[name].check(load_config(CONFIG))


def test_positions_start_anew_in_each_answer() -> None:
    mask = np.array([0, 1, 1, 0, 0, 1, 1, 1, 0], dtype=bool)
    assert answer_positions(mask).tolist() == [0, 1, 0, 1, 2]
    assert answer_positions(np.ones(3, dtype=bool)).tolist() == [0, 1, 2]
    assert places_of(mask.tolist()) == [0, 0, 1, 0, 0, 0, 1, 2, 0]
    assert places_of((~mask).tolist()) == [0, 0, 0, 0, 1, 0, 0, 0, 0]


def test_safeinstr_mixes_in_its_share_of_demonstrations(tmp_path: Path) -> None:
    safety = demo_rows("align_refusals", 12)
    path = write_rows(tmp_path / "safe.jsonl", safety)
    tree = CONFIG | {"compare": {"safety": {"path": str(path)}, "safety_share": 0.1}}
    rows = drawn_safety_rows(load_config(tree), 40)
    assert len(rows) == 4
    assert all(row.messages in [s["messages"] for s in safety] for row in rows)
    assert rows == drawn_safety_rows(load_config(tree), 40)
    assert rows != drawn_safety_rows(load_config(tree | {"seed": 1}), 40)
    with pytest.raises(InputError, match="12 rows there, 20 needed"):
        drawn_safety_rows(load_config(tree, ["compare.safety_share=0.5"]), 40)
    with pytest.raises(InputError, match=r"compare\.safety\.path"):
        registry()["safeinstr"].check(load_config(CONFIG))


def test_a_bad_demonstration_is_named_or_counted(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "safe.jsonl", [*demo_rows("align_refusals", 3), {"prompt": "no answer"}])
    tree = CONFIG | {"compare": {"safety": {"path": str(path)}}}
    method = registry()["safeinstr"]
    with pytest.raises(InputError, match=r"compare\.safety: .*safe\.jsonl:4: "):
        method.find(load_config(tree))
    lenient = load_config(tree, ["data.on_bad_row=skip"])
    method.find(lenient)
    told: list[str] = []
    assert len(read_safety(lenient, told.append)) == 3
    assert told == ["compare.safety: 1 bad rows are left out"]
    write_rows(tmp_path / "safe.jsonl", [{"prompt": "no answer"}])
    with pytest.raises(InputError, match="no row there that can be read"):
        method.find(lenient)


def test_a_guard_that_is_not_there_is_refused_before_anything_is_done(tmp_path: Path) -> None:
    tree = CONFIG | {"compare": {"guard": {"model": str(tmp_path / "guard")}}}
    with pytest.raises(InputError, match=r"compare\.guard\.model: .*guard"):
        registry()["star-dss"].find(load_config(tree))
    (tmp_path / "guard").mkdir()
    registry()["star-dss"].find(load_config(tree))
    pinned = load_config(tree, ["compare.guard.revision=main"])
    with pytest.raises(InputError, match=r"compare\.guard\.model: .* lies here, and a revision"):
        registry()["star-dss"].find(pinned)


def test_seal_drops_the_lightest_rows_within_the_budget() -> None:
    assert dropped("seal") == [4, 5]
    # A budget of 6 tokens: row 1 and row 2, the lightest; row 0 no longer fits.
    assert dropped("seal", discard_fraction=0.6) == [4, 5, 6, 7, 8, 9]
    with pytest.raises(InputError, match=r"^seal: name rows of safe answers .* in compare\.safety\.path"):
        registry()["seal"].check(load_config(CONFIG))


def test_seals_upper_level_comes_first_and_gives_way() -> None:
    assert [upper_weight(epoch) for epoch in (0, 1, 5, 9, 20)] == pytest.approx([0.9, 0.8, 0.4, 0.0, 0.0])


def test_seals_selector_loss_against_its_gradient_by_hand() -> None:
    logits = torch.tensor([0.0, 1.0, -0.5, 0.3], dtype=torch.float64, requires_grad=True)
    batch, losses = np.array([2, 1]), torch.tensor([3.0, 0.5], dtype=torch.float64)
    value = selector_loss(logits, batch, losses)
    value.backward()
    exps = [math.exp(logit) for logit in logits.tolist()]
    sigma = [e / sum(exps) for e in exps]
    own = {2: 3.0, 1: 0.5}
    mean = sum(sigma[i] * loss for i, loss in own.items())
    assert value.item() == pytest.approx(4 * mean / 2)  # four rows, two of them read
    # sigma_j (loss_j - sum_i sigma_i loss_i) / B, times four, for weights that are 1 on average.
    expected = [4 * sigma[j] * (own.get(j, 0.0) - mean) / 2 for j in range(4)]
    assert logits.grad is not None
    assert logits.grad.tolist() == pytest.approx(expected)
    # A step takes weight from the row of the higher loss, and gives it to those that were not read.
    moved = relative_weights(logits.detach() - 0.1 * logits.grad) / relative_weights(logits.detach())
    assert moved[2] < moved[1] < min(moved[0], moved[3])
    assert relative_weights(logits.detach()).sum().item() == pytest.approx(4)


@pytest.fixture(scope="module")
def tiny_base(tiny_model_folder: Path) -> Base:
    return open_base(
        ModelConfig.model_validate({"name": str(tiny_model_folder), "dtype": "float32", "device": "cpu"})
    )


def seal_weights(base: Base, custom: list[Any], safe: list[Any], **settings: Any) -> np.ndarray:
    training = TrainingConfig.model_validate({"batch_size": 4, "micro_batch_size": 2, **settings})
    custom, safe = tokenized(base, custom), tokenized(base, safe)
    return train_selector(base, custom, safe, training, seed=3, reporter=SilentReporter())


def tokenized(base: Base, rows: list[Any]) -> list[dict[str, Any]]:
    tokenizer = RowTokenizer(base.tokenizer, max_length=64, turns="all")
    tokens = [tokenizer(row["messages"]) for row in rows]
    return [{"input_ids": row.input_ids, "response_mask": row.response_mask} for row in tokens]


def plain_loss(model: Any, row: dict[str, Any]) -> torch.Tensor:
    """Transformers' own mean loss of a row's response tokens."""
    ids = torch.tensor([row["input_ids"]])
    labels = torch.where(torch.tensor([row["response_mask"]]), ids, -100)
    return model(input_ids=ids, labels=labels).loss


def test_seals_gradient_of_weighted_rows_against_plain_transformers(
    tiny_base: Base, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = tokenized(tiny_base, demo_rows("custom", 3))
    factors = [0.5, 0.1, 2.0]
    monkeypatch.setattr(head, "LOGITS_BYTES", 4 * len(tiny_base.tokenizer) * 7)  # seven positions a chunk
    with fresh_adapter(tiny_base, load_config(CONFIG).references.lora, 0) as model:
        learnt = [parameter for parameter in model.parameters() if parameter.requires_grad]
        losses = [plain_loss(model, row) for row in rows]
        expected = torch.autograd.grad(torch.tensor(factors) @ torch.stack(losses), learnt)
        got = add_gradients(SplitHead(model), rows, torch.tensor(factors), 2)
        assert got.tolist() == pytest.approx([loss.item() for loss in losses], rel=1e-5)
        assert any(gradient.abs().max() > 1e-5 for gradient in expected)
        for parameter, gradient in zip(learnt, expected, strict=True):
            torch.testing.assert_close(parameter.grad, gradient, rtol=1e-3, atol=1e-7)


def test_seals_weights_tell_the_losses_where_the_model_stays_as_it_is(
    tiny_base: Base, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In small steps a logit falls, each epoch, by the rate times how far its loss is above the mean."""
    monkeypatch.setattr(seal, "SELECTOR_RATE", 1e-6)
    custom = demo_rows("custom", 10)
    weights = seal_weights(tiny_base, custom, demo_rows("align_refusals", 3), learning_rate=1e-12)
    assert weights.dtype == np.float64
    assert weights.mean() == pytest.approx(1)
    with torch.no_grad():
        losses = [plain_loss(tiny_base.model, row).item() for row in tokenized(tiny_base, custom)]
    np.testing.assert_allclose(np.log(weights) / -2e-6, np.array(losses) - np.mean(losses), atol=2e-3)


def test_seals_model_learns_rows_by_their_weights_and_safety_less_each_epoch(
    tiny_base: Base, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[np.ndarray] = []

    def watch(split: Any, rows: Any, factors: torch.Tensor, micro: int) -> torch.Tensor:
        told.append(factors.double().numpy())
        return add_gradients(split, rows, factors, micro)

    monkeypatch.setattr(seal, "add_gradients", watch)
    monkeypatch.setattr(seal, "SELECTOR_RATE", 0.05)
    seal_weights(tiny_base, demo_rows("custom", 8), demo_rows("align_refusals", 8), epochs=2)
    safe, custom = told[::2], told[1::2]
    assert [one.sum() for one in safe] == pytest.approx([0.9, 0.9, 0.8, 0.8])
    assert custom[0] == pytest.approx([0.1 / 4] * 4)  # before anything is learnt of them, all rows count alike
    assert np.ptp(custom[3]) > 1e-4


@pytest.mark.long
def test_seals_selector_keeps_what_a_safe_model_finds_likely(
    tiny_base: Base, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half of the custom rows refuse, as the demonstrations do: they gain weight, and the others lose it."""
    # Random weights lose 11 nats a token, too many for the usual rate.
    monkeypatch.setattr(seal, "SELECTOR_RATE", 1e-3)
    refusals = demo_rows("align_refusals", 12)
    custom = [row for pair in zip(refusals[6:], demo_rows("custom", 6), strict=True) for row in pair]
    before = {name: value.clone() for name, value in tiny_base.model.state_dict().items()}
    training = {"learning_rate": 0.02, "epochs": 4, "lora": {"target_modules": "all-linear"}}
    weights = seal_weights(tiny_base, custom, refusals[:6], **training)
    assert weights[::2].min() > 1 > weights[1::2].max()
    assert np.array_equal(weights, seal_weights(tiny_base, custom, refusals[:6], **training))
    after = tiny_base.model.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    # Recomputed activations are the same activations, and so are rows read one at a time but for rounding.
    assert np.array_equal(
        weights, seal_weights(tiny_base, custom, refusals[:6], **training, gradient_checkpointing=True)
    )
    one_by_one = seal_weights(tiny_base, custom, refusals[:6], **training, micro_batch_size=1)
    np.testing.assert_allclose(weights, one_by_one, rtol=1e-3)


def test_toss_and_its_forms_are_settings_of_the_pipeline() -> None:
    config = load_config(CONFIG, ["selection.evidence=window", "refinement.rounds=3", "selection.scope=row", SHARE])
    assert registry()["toss"].overrides(config) == {
        "selection.discard_fraction": 0.3,
        "selection.scope": "global",
        "selection.evidence": "token",
        "selection.alpha": 1.0,
        "selection.beta": 1.0,
        "selection.context": "keep",
        "refinement.rounds": 0,
        "finetune.dropped": "ignore",
    }
    assert registry()["toss"].overrides(load_config(CONFIG))["selection.discard_fraction"] == 0.1  # the paper's
    assert registry()["toss-posterior"].overrides(load_config(CONFIG))["selection.discard_fraction"] == "auto"
    assert registry()["toss-pro"].overrides(config)["refinement.rounds"] == 3
    assert registry()["toss-pro"].overrides(load_config(CONFIG))["refinement.rounds"] == 1
    assert registry()["toss-row"].overrides(config)["selection.scope"] == "row"
    assert registry()["toss-posterior-anchor"].overrides(config)["finetune.dropped"] == "anchor"
    for method in registry().values():
        settings = [f"{key}={value}" for key, value in method.overrides(config).items()]
        load_config(CONFIG, settings)  # every override is a key that the config knows


def test_the_registry() -> None:
    for name, method in registry().items():
        assert name == method.name
        assert method.summary
        assert method.source
        assert method.differs
    assert [method.name for method in find_methods(["toss", "sft", "toss"])] == ["toss", "sft"]
    with pytest.raises(InputError, match="no method tos; known: base, sft"):
        find_methods(["sft", "tos"])
