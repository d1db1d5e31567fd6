"""Dynamic safety shaping, controls for anchors and for small steps, and SafeMERGE, on cases worked out by hand."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

import tosslm
from conftest import demo_rows, write_rows
from test_hooks import SETTINGS, Watching, train
from test_methods import CONFIG, dropped, material
from test_training import base_of
from test_weights import by_hand, weighed_rows
from test_weights import train as train_weighed
from tosslm.compare import compare
from tosslm.config import ClassifierConfig, load_config
from tosslm.errors import InputError
from tosslm.evaluation import generate
from tosslm.evaluation.answers import Answer
from tosslm.evaluation.classifiers import (
    classify_attacks,
    share_of_first,
    unsafe_probabilities,
    word_beginnings,
)
from tosslm.files import read_tables
from tosslm.methods import averaged, registry, safemerge, settled, slow, star_dss, with_values
from tosslm.methods.safemerge import alignment_cosine, merge_layers, merged_factors
from tosslm.training.labels import anchored_tokens

GUARD = ClassifierConfig.model_validate({"model": "guard", "prompt": "{prompt} {answer}", "batch_size": 2})
ANCHORED = (
    "random-anchor",
    "first-k-anchor",
    "rows-anchor",
    "oracle-anchor",
    "oracle-tokens-anchor",
    "sft-anchor-first",
)


def weights_of(name: str, **changes: Any) -> np.ndarray:
    weigh = registry()[name].token_weights
    assert weigh is not None
    weights = weigh(material(**changes))
    assert weights.dtype == np.float32
    return weights


def test_star_dss_weighs_by_the_probability_of_safe() -> None:
    guard = np.array([0.1, 0.1, 0.9, 0.9, 0, 1, np.nan, np.nan, 0.5, 0.5])
    weights = weights_of("star-dss", signals={star_dss.P_UNSAFE: guard})
    np.testing.assert_allclose(weights, [0.9, 0.9, 0.1, 0.1, 1, 0, 1, 1, 0.5, 0.5], rtol=1e-6)
    method = registry()["star-dss"]
    assert method.hold
    assert method.overrides(load_config(CONFIG, ["finetune.dropped=anchor"]))["finetune.dropped"] == "ignore"


def test_the_hard_variant_anchors_no_first_tokens() -> None:
    config = load_config(CONFIG, ["finetune.anchor_weight=4"])
    own, _ = settled(with_values(config, {"method": "star-dss-hard", "compare.guard": {"model": "guard"}}))
    assert (own.finetune.dropped, own.finetune.anchor_first, own.finetune.anchor_weight) == ("anchor", 0, 4)


def test_two_words_share_what_probability_they_have() -> None:
    logits = np.array([[2.0, 1.0, -1.0], [900.0, -900.0, 900.0], [np.nan] * 3])
    odds = [np.exp(value) for value in (2.0, 1.0, -1.0)]
    expected = [(odds[0] + odds[1]) / sum(odds), 0.5, np.nan]
    np.testing.assert_allclose(share_of_first(logits, 2), expected)


def test_words_begin_with_tokens_of_their_own(smollm2_tokenizer: Any) -> None:
    unsafe, safe = word_beginnings(smollm2_tokenizer, GUARD)
    assert smollm2_tokenizer.convert_tokens_to_ids(["safe", "Ġsafe", "Safe"]) == [18437, 2991, 34806]
    assert {18437, 2991, 34806} <= set(safe)
    assert {10082, 20408} <= set(unsafe)  # "uns" of "uns" + "afe", and " unsafe"
    assert not set(safe) & set(unsafe)
    alike = ClassifierConfig.model_validate({"model": "guard", "unsafe": "1 bad", "safe": "1 good"})
    with pytest.raises(InputError, match="begins '1 bad' and '1 good' with the same token"):
        word_beginnings(smollm2_tokenizer, alike)


@pytest.fixture
def replies(tiny_model_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The very small model as a guard that writes what it is told, token by token, with logits of our choosing."""
    base = base_of(tiny_model_folder)
    tokenizer = base.tokenizer

    def written(*texts: str, odds: float = 0.0) -> tuple[Any, Any, list[Answer]]:
        by_prompt = {f"p{number} a": text for number, text in enumerate(texts)}

        def generated(model: Any, tokens: Sequence[Sequence[int]], settings: Any) -> Any:
            own = [tokenizer(by_prompt[tokenizer.decode(row)], add_special_tokens=False).input_ids for row in tokens]
            length = max(map(len, own)) + 1
            output = torch.tensor([row + [settings.eos_token_id[0]] * (length - len(row)) for row in own])
            logits = torch.full((length, len(own), len(tokenizer)), -50.0)
            for row, ids in enumerate(own):
                for place, token in enumerate(ids):
                    logits[place, row, token] = odds
                    logits[place, row, 2991 if token == 20408 else 20408] = 0.0  # the other of " safe" and " unsafe"
            return output, tuple(logits) if settings.return_dict_in_generate else ()

        monkeypatch.setattr(generate, "generated_ids", generated)
        return base.model, tokenizer, [Answer(str(n), f"p{n}", "a", True) for n in range(len(texts))]

    return written


def test_a_probability_is_read_where_the_first_word_begins(replies: Any) -> None:
    """After blank lines and punctuation; and there is none exactly where there is no verdict."""
    texts = [" unsafe", "\n\n: unsafe\nS1", "\n\n safe", "", " maybe", "\n\n", " safe unsafe"]
    model, tokenizer, answers = replies(*texts, odds=1.5)
    found = unsafe_probabilities(model, tokenizer, answers, GUARD)
    said = 1 / (1 + np.exp(-1.5))
    np.testing.assert_allclose(found, [said, said, 1 - said, np.nan, np.nan, np.nan, 1 - said], rtol=1e-5)
    verdicts = classify_attacks(model, tokenizer, answers, GUARD)
    assert [None if np.isnan(p) else bool(p > 0.5) for p in found] == verdicts


def test_logits_are_those_of_plain_transformers(tiny_model_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = base_of(tiny_model_folder)
    texts, wanted = ["How are you", "one two three four five", "x"], [5, 900, 17]
    arguments: dict[str, Any] = {"max_new_tokens": 3, "batch_size": 2}
    replies, found = generate.complete_with_logits(base.model, base.tokenizer, texts, wanted, **arguments)
    assert replies == generate.complete(base.model, base.tokenizer, texts, **arguments)
    for text, reply, logits in zip(texts, replies, found, strict=True):
        ids = base.tokenizer(text, return_tensors="pt").input_ids
        for _ in range(3):
            with torch.no_grad():
                last = base.model(ids).logits[0, -1]
            token = int(last.argmax())
            if any(character.isalnum() for character in base.tokenizer.decode([token])):
                np.testing.assert_allclose(logits, last[wanted], atol=1e-4)
                break
            ids = torch.cat([ids, torch.tensor([[token]])], 1)
        else:
            assert not any(character.isalnum() for character in reply)
            assert np.isnan(logits).all()


def test_holding_goes_by_rows_where_losses_do(tiny_model_folder: Path, tmp_path: Path) -> None:
    _, after_two = train_weighed(tmp_path / "two", tiny_model_folder, 2, hold=True, normalize="row")
    loss, _ = train_weighed(tmp_path / "three", tiny_model_folder, 3, hold=True, normalize="row")
    numbers, weights, losses, divergences = by_hand(after_two, tiny_model_folder)
    each = weights * losses + np.maximum(1 - weights, 0) * divergences
    means = [each[numbers == number].mean() for number in range(len(weighed_rows()))]
    assert loss == pytest.approx(np.mean(means), abs=1e-4)


@pytest.mark.parametrize("name", ANCHORED[:-1])
def test_an_anchored_control_holds_what_its_model_drops(name: str) -> None:
    assert dropped(name) == dropped(name.removesuffix("-anchor"))
    config = load_config(CONFIG, ["finetune.anchor_weight=4", "finetune.anchor_first=2"])
    changed = registry()[name].overrides(config)
    assert changed == registry()["toss-anchor"].overrides(config)
    assert changed["finetune.dropped"] == "anchor"


def test_anchoring_the_first_tokens_alone_drops_nothing() -> None:
    assert dropped("sft-anchor-first") == []
    anchored = anchored_tokens(np.ones(10, dtype=bool), material().positions, 2)
    assert np.flatnonzero(anchored).tolist() == [0, 1, 4, 5, 6, 7, 8, 9]
    with pytest.raises(InputError, match=r"sft-anchor-first: .* set it above 0"):
        registry()["sft-anchor-first"].check(load_config(CONFIG, ["finetune.anchor_weight=0"]))
    for given, first in (([], 3), (["finetune.anchor_first=2"], 2)):
        settings = registry()["sft-anchor-first"].overrides(load_config(CONFIG, given))
        assert settings["finetune.anchor_first"] == first


def test_kl_beside_the_loss_weighs_every_token_alike() -> None:
    assert weights_of("sft-kl").tolist() == [0.5] * 10
    assert registry()["sft-kl"].hold


def test_a_method_may_be_settled_again_and_again() -> None:
    """A run folder's config has what its method sets; going on from there changes nothing."""
    for name in ("sft-slow", "sft-ema", "sft-kl", *ANCHORED):
        config = load_config(
            {**CONFIG, "method": name, "compare": {"harmful_sources": ["bad"]}, "finetune": {"anchor_first": 3}}
        )
        once, _ = settled(config)
        assert settled(once)[0] == once
        assert once.finetune.learning_rate == config.finetune.learning_rate


@pytest.mark.long
def test_half_the_learning_rate_is_what_slow_means(
    tiny_model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = base_of(tiny_model_folder)
    for schedule in ({}, {"lr_scheduler": "linear", "warmup_steps": 1}):
        for key, value in schedule.items():
            monkeypatch.setitem(SETTINGS, key, value)
        made = train(base, tmp_path / f"slow-{len(schedule)}", hook=slow.Slowing())
        with monkeypatch.context() as patch:
            patch.setitem(SETTINGS, "learning_rate", SETTINGS["learning_rate"] * slow.SLOWNESS)
            plain = train(base, tmp_path / f"plain-{len(schedule)}")
        for name, value in plain.items():
            np.testing.assert_allclose(made[name], value, rtol=1e-5, atol=1e-9)


def test_the_moving_average_begins_at_the_base(tiny_model_folder: Path, tmp_path: Path) -> None:
    class WatchingTheStart(Watching):
        def begin(self, trainer: Any) -> None:
            super().begin(trainer)
            self.after_step(trainer, 0)

    base, hook = base_of(tiny_model_folder), WatchingTheStart()
    train(base, tmp_path / "plain", hook=hook)
    made = train(base, tmp_path / "averaged", hook=averaged.MovingAverage())
    assert len(hook.weights) == 5  # the start and four steps
    shares = [0.9**4, 0.1 * 0.9**3, 0.1 * 0.9**2, 0.1 * 0.9, 0.1]
    assert sum(shares) == pytest.approx(1)
    for name, value in made.items():
        expected = sum(share * weights[name] for share, weights in zip(shares, hook.weights, strict=True))
        np.testing.assert_allclose(value, expected, rtol=1e-4, atol=1e-9)


def matrix(*rows: Sequence[float]) -> torch.Tensor:
    return torch.tensor(rows, dtype=torch.float32)


def test_the_cosine_tells_how_much_of_an_update_lies_where_alignment_was() -> None:
    """Alignment changed the layer's first output alone; at any scale, the update's share there is what counts."""
    direction = matrix([3, 0, 0], [0, 0, 0])
    first = matrix([1, 2, 2])
    assert alignment_cosine(direction, first, matrix([1], [0])) == pytest.approx(1)
    assert alignment_cosine(direction, first, matrix([0], [5])) == 0
    assert alignment_cosine(direction, first, matrix([3], [4])) == pytest.approx(3 / 5)
    assert alignment_cosine(-7 * direction, first, matrix([3], [4])) == pytest.approx(3 / 5)
    assert alignment_cosine(0 * direction, first, matrix([3], [4])) == 0
    assert alignment_cosine(direction, first, matrix([0], [0])) == 0
    # Two outputs, changed four times as much and once: image (4 * 3, 4) of (3, 4), so (36 + 16) / (5 sqrt(160)).
    both = matrix([2, 0, 0], [0, 1, 0])
    assert alignment_cosine(both, first, matrix([3], [4])) == pytest.approx(52 / (5 * 160**0.5))


@pytest.mark.parametrize(("rank", "outputs", "inputs"), [(2, 7, 9), (3, 2, 9), (4, 9, 3), (1, 5, 5)])
def test_a_merge_is_the_nearest_update_of_its_rank(rank: int, outputs: int, inputs: int) -> None:
    draw = torch.Generator().manual_seed(rank)
    fine, safe = (
        (torch.randn(rank, inputs, generator=draw), torch.randn(outputs, rank, generator=draw)) for _ in range(2)
    )
    first, second = merged_factors(fine, safe, 0.2)
    assert (first.shape, second.shape) == (fine[0].shape, fine[1].shape)
    wanted = (0.8 * fine[1] @ fine[0] + 0.2 * safe[1] @ safe[0]).numpy()
    u, sizes, v = np.linalg.svd(wanted, full_matrices=False)
    np.testing.assert_allclose((second @ first).numpy(), (u[:, :rank] * sizes[:rank]) @ v[:rank], atol=1e-5)


def test_a_merge_of_updates_that_share_a_factor_is_exact() -> None:
    first = matrix([1, 0, 2], [0, 3, 0])
    fine, safe = matrix([1, 0], [0, 1]), matrix([0, 2], [5, 0])
    made = merged_factors((first, fine), (first, safe), 0.25)
    torch.testing.assert_close(made[1] @ made[0], (0.75 * fine + 0.25 * safe) @ first)


def test_only_layers_that_part_from_alignment_are_merged() -> None:
    first = matrix([1, 2, 2])

    def adapter(**seconds: torch.Tensor) -> dict[str, torch.Tensor]:
        pairs = {f"{layer}.lora_A.weight": first for layer in seconds}
        return pairs | {f"{layer}.lora_B.weight": second for layer, second in seconds.items()}

    alignment = adapter(along=matrix([1], [0]), across=matrix([1], [0]), other=matrix([1], [1]))
    # 0.35 is between 1 / sqrt(10), of (1, 3), and 2 / sqrt(13), of (2, 3).
    weights = adapter(along=matrix([2], [3]), across=matrix([1], [3]), unaligned=matrix([1], [0]))
    safe = adapter(along=matrix([9], [9]), across=matrix([6], [-2]), unaligned=matrix([0], [0]))
    made, merged = merge_layers(weights, safe, alignment)
    assert merged == ["across", "unaligned"]
    assert made.keys() == weights.keys()
    assert all(torch.equal(made[f"along.lora_{f}.weight"], weights[f"along.lora_{f}.weight"]) for f in "AB")
    for layer, second in (("across", matrix([2.0], [2.0])), ("unaligned", matrix([0.8], [0.0]))):
        update = made[f"{layer}.lora_B.weight"] @ made[f"{layer}.lora_A.weight"]
        torch.testing.assert_close(update, second @ first)


def test_safemerge_asks_for_what_it_needs(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^safemerge: name rows of safe answers .* in compare\.safety\.path"):
        registry()["safemerge"].check(load_config(CONFIG))
    from safetensors.torch import save_file

    save_file({"prompt_embeddings": torch.zeros(2, 2)}, tmp_path / "adapter_model.safetensors")
    with pytest.raises(InputError, match=r"model\.adapter: .* has no LoRA"):
        safemerge.alignment_weights(tmp_path)


def merging_config(tiny_config: dict[str, Any], folder: Path, **changes: Any) -> dict[str, Any]:
    path = write_rows(folder / "safe.jsonl", demo_rows("align_refusals", 8))
    own = {"method": "safemerge", "refinement": {}, "compare": {"safety": {"path": str(path)}}}
    return tiny_config | own | {"run_dir": str(folder / "merged")} | changes


def adapter_of(run: Any) -> dict[str, np.ndarray]:
    return load_file(run.path / "model/adapter_model.safetensors")


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.parametrize("aligned", [True, False])
def test_safemerge_runs_with_and_without_a_known_alignment(
    tiny_config: dict[str, Any], tmp_path: Path, aligned: bool
) -> None:
    if not aligned:
        tiny_config["model"]["adapter"] = None
    plain = adapter_of(tosslm.run(tiny_config | {"method": "sft", "refinement": {}}, until="finetune"))
    merged = tosslm.run(merging_config(tiny_config, tmp_path), until="finetune")
    told = (merged.path / "run.log").read_text()
    assert "of 4 layers merged with the safe adapter" in told
    made = adapter_of(merged)
    assert made.keys() == plain.keys()
    # model.adapter has no v_proj, so that those layers are merged for certain.
    values = [name for name in plain if "v_proj.lora_B" in name]
    assert len(values) == 2
    if aligned:
        assert all(not np.allclose(made[name], plain[name]) for name in values)


@pytest.mark.long
@pytest.mark.slow
def test_safemerge_is_the_plain_training_and_a_safe_one_put_together(
    tiny_config: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a threshold that no layer reaches; the safe one is the same as plain training on those rows alone."""
    monkeypatch.setattr(safemerge, "THRESHOLD", 2.0)
    made = adapter_of(tosslm.run(merging_config(tiny_config, tmp_path), until="finetune"))
    plain = tiny_config | {"method": "sft", "refinement": {}}
    fine = adapter_of(tosslm.run(plain, until="finetune"))
    data = tiny_config["data"] | {"custom": {"path": str(tmp_path / "safe.jsonl")}}
    safe = adapter_of(tosslm.run(plain | {"data": data, "run_dir": str(tmp_path / "safe-run")}, until="finetune"))
    for first in (name for name in made if "lora_A" in name):
        second = first.replace("lora_A", "lora_B")
        wanted = 0.8 * fine[second] @ fine[first] + 0.2 * safe[second] @ safe[first]
        u, sizes, v = np.linalg.svd(wanted)
        rank = len(made[first])
        best = (u[:, :rank] * sizes[:rank]) @ v[:rank]
        np.testing.assert_allclose(made[second] @ made[first], best, atol=1e-6)


@pytest.mark.long
@pytest.mark.slow
def test_star_dss_trains_with_the_guards_weights(
    tiny_config: dict[str, Any], tiny_model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def doubtful(model: Any, tokenizer: Any, answers: Sequence[Answer], config: ClassifierConfig) -> np.ndarray:
        return np.array([0.75 if len(answer.answer) > 40 else 0.25 for answer in answers])

    monkeypatch.setattr("tosslm.evaluation.classifiers.unsafe_probabilities", doubtful)
    guard = {"compare": {"guard": {"model": str(tiny_model_folder)}, "guard_segment": 4}}
    run = tosslm.run(tiny_config | guard | {"method": "star-dss", "refinement": {}}, until="finetune")
    (table,) = read_tables(run.layout.weights)
    weights = np.concatenate(table["weight"].to_numpy())
    assert set(weights.tolist()) == {0.25, 0.75}
    assert json.loads((run.path / "selection/selection.json").read_text())["discarded"] == 0
    assert run.manifest["stages"]["model"]["anchored_tokens"] == 0


@pytest.mark.long
@pytest.mark.slow
def test_controls_train_and_are_measured(tiny_config: dict[str, Any], tmp_path: Path) -> None:
    rows = demo_rows("custom", 16)
    for i, row in enumerate(rows):
        row["source"] = "harm" if i % 4 == 0 else "fine"
    write_rows(tmp_path / "custom.jsonl", rows)
    prompts = write_rows(tmp_path / "prompts.jsonl", [{"prompt": "How are you?"}])
    config = load_config(
        tiny_config
        | {
            "refinement": {},
            "compare": {"harmful_sources": ["harm"]},
            "evaluation": {"safe": {"path": str(prompts)}, "max_new_tokens": 1},
        }
    )
    names = ["sft", "sft-slow", "sft-kl", "sft-ema", *ANCHORED]
    assert compare(config, names)["failed"] == []
    folders = {name: Path(config.run_dir) / "compare" / name / "seed-7" for name in names}
    adapters = {name: load_file(folder / "model/adapter_model.safetensors") for name, folder in folders.items()}
    key = next(name for name in adapters["sft"] if "lora_B" in name)
    assert len({values[key].tobytes() for values in adapters.values()}) == len(names)
    # What pulls back or steps less moves the adapter less.
    sizes = {name: np.linalg.norm(values[key]) for name, values in adapters.items()}
    assert all(sizes[name] < sizes["sft"] for name in ("sft-slow", "sft-ema"))


def test_an_adapter_of_half_cross_entropy_and_half_kl(tiny_model_folder: Path, tmp_path: Path) -> None:
    """The logged loss of the last step is half of either, computed from plain log-softmaxes."""
    rows = [row | {"weight": [0.5] * len(row["input_ids"])} for row in weighed_rows()]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("test_weights.weighed_rows", lambda: rows)
        _, after_two = train_weighed(tmp_path / "two", tiny_model_folder, 2, hold=True)
        loss, _ = train_weighed(tmp_path / "three", tiny_model_folder, 3, hold=True)
        _, weights, losses, divergences = by_hand(after_two, tiny_model_folder)
    assert set(weights) == {0.5}
    assert divergences.mean() > 1e-3
    assert loss == pytest.approx(0.5 * losses.mean() + 0.5 * divergences.mean(), abs=1e-4)
