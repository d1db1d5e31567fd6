"""Methods that weigh by two references, and methods that look at hidden states: each against its formula."""

from __future__ import annotations

import copy
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import tosslm
from conftest import demo_rows, write_rows
from test_losses import independent_losses
from test_methods import CONFIG, dropped, material, tokenized
from tosslm import pipeline
from tosslm.config import ModelConfig, load_config
from tosslm.errors import InputError, TosslmError
from tosslm.files import read_tables
from tosslm.methods import registry, settled
from tosslm.methods.datashield import TOKEN_RISKS, segment_spans, token_risks
from tosslm.methods.dr_sft import BASE_LOSSES, soft_weights
from tosslm.methods.larf import ROW_RISKS, last_response_token, row_risks
from tosslm.methods.likeness import (
    EXAMPLES,
    PROBES,
    SCALE_STEP,
    most_sensitive,
    read_examples,
    sensitive_layer,
    unsafe_direction,
    unsafe_likeness,
)
from tosslm.model.base import Base, open_base
from tosslm.model.layers import decoder_layers, layer_states, scaled_layer
from tosslm.progress import SilentReporter
from tosslm.workbench import Workbench


def test_dr_sfts_weight_against_the_authors_formula() -> None:
    """Theirs, written out: eta from the clamped sigmoid of log-ratios, and a policy that still is the base."""
    base = np.array([1.0, 3.0, 2.0, 9.0, 0.0, 0.5], dtype=np.float32)
    degraded = np.array([1.0, 2.0, 4.0, 0.5, 50.0, 0.4], dtype=np.float32)
    beta, expected = 0.001, []
    for b, d in zip(base.tolist(), degraded.tolist(), strict=True):
        eta = 1 - 4 * min(0.5, 1 / (1 + math.exp(-(d - b))))
        z = beta / 2 * ((-b + b) - eta * (-b + d))
        expected.append(max((1 - eta) * (1 - 1 / (1 + math.exp(-z))), 1e-3))
    weights = soft_weights(base, degraded)
    assert weights.dtype == np.float32
    np.testing.assert_allclose(weights, expected, rtol=0.013)  # one token's references lie 50 nats apart
    np.testing.assert_allclose(weights[[0, 1, 2, 5]], [1, 2 / (1 + math.e), 1, 2 / (1 + math.exp(0.1))], rtol=1e-6)
    assert weights[3] == pytest.approx(1e-3)  # 2 / (1 + e^8.5) is less than that
    assert weights[4] == 1


def test_dr_sft_keeps_every_token_at_its_weight() -> None:
    assert dropped("dr-sft") == []
    given = material(signals={BASE_LOSSES: np.full(10, 5.0, dtype=np.float32)})
    weigh = registry()["dr-sft"].token_weights
    assert weigh is not None
    # The degraded losses are 1 to 9 and 0: from 5 on the base is the likelier one.
    weights = weigh(given)
    assert (np.diff(weights[:9]) >= 0).all()
    assert np.flatnonzero(weights == 1).tolist() == [4, 5, 6, 7, 8]
    assert weights[9] == pytest.approx(2 / (1 + math.exp(5)))


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ b / math.sqrt(float(a @ a) * float(b @ b)))


def test_likeness_is_the_mean_cosine_to_unsafe_less_that_to_safe_states() -> None:
    rng = np.random.default_rng(0)
    states, unsafe, safe = (rng.normal(size=(n, 5)).astype(np.float32) for n in (7, 4, 3))
    expected = [
        np.mean([cosine(s, u) for u in unsafe]) - np.mean([cosine(s, v) for v in safe])
        for s in states.astype(np.float64)
    ]
    direction = unsafe_direction(unsafe, safe)
    np.testing.assert_allclose(unsafe_likeness(states, direction), expected, atol=1e-6)
    # Lengths say nothing, neither of a state nor of an example; a state of nothing is like neither.
    longer = unsafe_direction(unsafe * np.array([[1], [9], [3], [0.1]]), safe)
    np.testing.assert_allclose(unsafe_likeness(states * 7, longer), expected, atol=1e-6)
    assert unsafe_likeness(np.zeros((1, 5)), direction).tolist() == [0.0]


def test_the_sensitive_layer_is_not_the_one_that_any_change_spoils() -> None:
    stronger, weaker = np.array([-9.0, 1.5, 0.3, 2.0]), np.array([-9.1, 1.4, -0.4, 2.9])
    assert most_sensitive(stronger, weaker) == 2


def test_larf_drops_the_rows_most_like_unsafe_ones() -> None:
    risks = {ROW_RISKS: np.array([0.1, -0.3, 0.2])}
    # Three tokens may go: rows 2 and 0 have four each and do not fit, row 1 has two.
    assert dropped("larf", signals=risks) == [4, 5]
    assert dropped("larf", signals=risks, discard_fraction=0.4) == [6, 7, 8, 9]
    assert dropped("larf", signals=risks, discard_fraction=0.8) == [0, 1, 2, 3, 6, 7, 8, 9]
    assert last_response_token(np.array([0, 1, 1, 0, 1, 0], dtype=bool)).tolist() == [[4, 5]]


def test_datashield_drops_whole_segments_up_to_the_budget() -> None:
    risks = {TOKEN_RISKS: np.array([0.1, 0.1, 0.4, 0.4, 0.3, 0.3, -1, -1, -1, -1], dtype=np.float64)}
    assert dropped("datashield", signals=risks, discard_fraction=0.2) == [2, 3]
    assert dropped("datashield", signals=risks, discard_fraction=0.3) == [2, 3, 4]  # the last is cut
    assert dropped("datashield", signals=risks, discard_fraction=0.6) == [0, 1, 2, 3, 4, 5]


@given(st.lists(st.booleans(), max_size=40), st.integers(1, 9))
def test_segments_cover_the_answers_and_cross_none(bits: list[bool], size: int) -> None:
    mask = np.array(bits, dtype=bool)
    spans = segment_spans(mask, size)
    covered = np.zeros(len(mask), dtype=int)
    for start, end in spans:
        assert 1 <= end - start <= size
        covered[start:end] += 1
        # A shorter one ends its answer.
        assert end - start == size or end == len(mask) or not mask[end]
    assert np.array_equal(covered, mask)


@pytest.mark.parametrize("name", ["larf", "datashield"])
def test_examples_are_asked_for_at_the_door(name: str) -> None:
    with pytest.raises(InputError, match=rf"^{name}: name rows of safe answers .* in compare\.safety\.path"):
        registry()[name].check(load_config(CONFIG))


@pytest.fixture(scope="module")
def tiny_base(tiny_model_folder: Path) -> Base:
    return open_base(
        ModelConfig.model_validate({"name": str(tiny_model_folder), "dtype": "float32", "device": "cpu"})
    )


@pytest.mark.parametrize("batch_tokens", [1, 150, 1024])
def test_states_of_spans_against_plain_transformers(tiny_base: Base, batch_tokens: int) -> None:
    rows = tokenized(tiny_base, demo_rows("custom", 5))
    spans = [np.array([[0, 3], [i, i + 1], [2, len(row["input_ids"])]]) for i, row in enumerate(rows)]
    spans[2] = np.zeros((0, 2), dtype=np.int64)
    told: list[tuple[int, int]] = []
    hooks = dict(decoder_layers(tiny_base.model)[0]._forward_hooks)
    got = layer_states(
        tiny_base.model, rows, spans, 0, batch_tokens=batch_tokens, advance=lambda *done: told.append(done)
    )
    assert dict(decoder_layers(tiny_base.model)[0]._forward_hooks) == hooks
    for row, own, states in zip(rows, spans, got, strict=True):
        with torch.no_grad():
            out = tiny_base.model(input_ids=torch.tensor([row["input_ids"]]), output_hidden_states=True)
        after_first = out.hidden_states[1][0].numpy()  # [0] are the embeddings
        assert states.dtype == np.float32
        assert states.shape == (len(own), 32)
        for (start, end), state in zip(own, states, strict=True):
            np.testing.assert_allclose(state, after_first[start:end].mean(0), atol=1e-5)
    assert sum(rows for rows, _ in told) == 5


def test_a_scaled_layer_is_itself_again(tiny_base: Base) -> None:
    model = tiny_base.model
    before = {name: value.clone() for name, value in model.state_dict().items()}

    def scaled_by(factor: float) -> None:
        for name, value in model.state_dict().items():
            changed = name.startswith("model.layers.1.") and name.endswith("_proj.weight")
            torch.testing.assert_close(value, before[name] * factor if changed else before[name])

    with scaled_layer(model, 1, 1.1):  # in float32, a division would not undo it
        scaled_by(1.1)

    def interrupted() -> None:
        with scaled_layer(model, 1, 0.7):
            scaled_by(0.7)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_model_of_unknown_build_is_refused(tiny_base: Base) -> None:
    odd = copy.deepcopy(tiny_base.model)
    odd.config.num_hidden_layers = 5
    with pytest.raises(TosslmError, match="its 5 layers do not stand in one list"):
        decoder_layers(odd)


@pytest.fixture
def example_config(tiny_config: dict[str, Any], tmp_path: Path) -> dict[str, Any]:
    """The tiny run with safe examples, and two kinds of custom rows."""
    write_rows(tmp_path / "safety.jsonl", demo_rows("align_refusals", 6))
    return tiny_config | {
        "refinement": {},
        "compare": {"safety": {"path": str(tmp_path / "safety.jsonl")}, "guard_segment": 5},
    }


def bench_of(config: dict[str, Any], name: str) -> Workbench:
    return pipeline.workbench(settled(load_config(config | {"method": name}))[0], SilentReporter())


def margin(model: Any, examples: Any) -> float:
    """With transformers' own losses, a row at a time."""
    means = []
    for rows in (examples.unsafe, examples.safe):
        losses = []
        for row in rows:
            ids = torch.tensor([row["input_ids"]])
            labels = torch.where(torch.tensor([list(row["response_mask"])]), ids, -100)
            with torch.no_grad():
                losses.append(model(input_ids=ids, labels=labels).loss.item())
        means.append(np.mean(losses))
    return float(means[0] - means[1])


def independent_layer(base: Any, examples: Any) -> tuple[int, np.ndarray]:
    """The layer whose strength bears most on refusing, with copies of the model whose weights are multiplied."""
    found = []
    for layer in range(2):
        margins = []
        for factor in (1 + SCALE_STEP, 1 - SCALE_STEP):
            model = copy.deepcopy(base)
            for name, weight in model.named_parameters():
                if name.startswith(f"model.layers.{layer}.") and "norm" not in name:
                    weight.data *= factor
            margins.append(margin(model, examples))
        found.append(margins[0] - margins[1])
    return int(np.argmax(found)), np.array(found)


def independent_states(base: Any, row: dict[str, Any], layer: int) -> np.ndarray:
    """What a layer gives out at each token, ``[T, H]``; a hook of its own, as the last one goes through a norm."""
    caught: list[Any] = []
    handle = base.model.layers[layer].register_forward_hook(lambda _, __, output: caught.append(output))
    with torch.no_grad():
        base(input_ids=torch.tensor([row["input_ids"]]))
    handle.remove()
    states = caught[0][0] if isinstance(caught[0], tuple) else caught[0]
    return states[0].double().numpy()


def segments(mask: list[bool], size: int) -> list[list[int]]:
    """Response tokens' places, a list a segment."""
    found: list[list[int]] = []
    for t, responds in enumerate(mask):
        if responds:
            fresh = not found or found[-1][-1] != t - 1 or len(found[-1]) == size
            found.append([t]) if fresh else found[-1].append(t)
    return found


def whole_answers(rows: list[dict[str, Any]]) -> list[list[list[int]]]:
    return [[[int(np.flatnonzero(row["response_mask"])[-1])]] for row in rows]


def independent_likeness(base: Any, layer: int, examples: Any, rows: list[Any], size: int | None) -> list[np.ndarray]:
    """Every cosine by itself; of each row's last response token, or of its segments' means."""

    def means(rows: list[Any]) -> list[list[np.ndarray]]:
        parts = whole_answers(rows) if size is None else [segments(row["response_mask"], size) for row in rows]
        return [
            [independent_states(base, row, layer)[part].mean(0) for part in own]
            for row, own in zip(rows, parts, strict=True)
        ]

    safe_ones = examples.safe if size is None else [*examples.safe, *examples.useful]
    unsafe, safe = ([state for own in means(list(kind)) for state in own] for kind in (examples.unsafe, safe_ones))
    return [
        np.array([np.mean([cosine(s, u) for u in unsafe]) - np.mean([cosine(s, v) for v in safe]) for s in own])
        for own in means(rows)
    ]


@pytest.mark.long
@pytest.mark.slow
def test_larf_end_to_end_against_plain_transformers(example_config: dict[str, Any]) -> None:
    run = tosslm.run(example_config | {"method": "larf"})
    assert not (run.path / "references").exists()
    bench = bench_of(example_config, "larf")
    examples, base = read_examples(bench), bench.base.model
    assert (len(examples.unsafe), len(examples.safe), len(examples.useful)) == (8, 6, 8)  # two of ten are held out
    layer, gains = independent_layer(base, examples)
    assert abs(gains[0] - gains[1]) > 1e-3  # else rounding would tell
    assert sensitive_layer(bench, examples) == layer
    rows = list(run.rows)
    risks = np.array([own[0] for own in independent_likeness(base, layer, examples, rows, None)])
    np.testing.assert_allclose(row_risks(bench), risks, atol=1e-5)
    lengths = [sum(row["response_mask"]) for row in rows]
    left, expected = int(0.2 * sum(lengths)), [True] * len(rows)
    for i in sorted(range(len(rows)), key=lambda i: -risks[i]):
        if lengths[i] <= left:
            expected[i] = False
            left -= lengths[i]
    assert [bool(keep.all()) for keep in run.keep()] == expected
    assert [bool(keep.any()) for keep in run.keep()] == expected
    told = json.loads((run.path / "selection/selection.json").read_text())
    assert told["method"] == "larf"
    assert "safety-sensitive layer: " in (run.path / "run.log").read_text()


@pytest.mark.long
@pytest.mark.slow
def test_datashield_end_to_end_against_plain_transformers(example_config: dict[str, Any]) -> None:
    run = tosslm.run(example_config | {"method": "datashield"}, until="finetune")
    assert not (run.path / "references").exists()
    bench = bench_of(example_config, "datashield")
    examples, rows = read_examples(bench), list(run.rows)
    layer = sensitive_layer(bench, examples)
    likeness = independent_likeness(bench.base.model, layer, examples, rows, 5)
    expected = [
        value
        for row, own in zip(rows, likeness, strict=True)
        for value, part in zip(own, segments(row["response_mask"], 5), strict=True)
        for _ in part
    ]
    risks = token_risks(bench)
    np.testing.assert_allclose(risks, expected, atol=1e-5)
    keep = np.concatenate(list(run.keep()))
    assert (~keep).sum() == int(0.2 * len(keep))
    assert risks[~keep].min() >= risks[keep].max()
    # Another length of segments, or other safe examples, and the choice is made anew.
    covers = registry()["datashield"].choice_covers
    longer = bench_of(example_config | {"compare": example_config["compare"] | {"guard_segment": 6}}, "datashield")
    assert covers(longer) != covers(bench)
    write_rows(Path(example_config["compare"]["safety"]["path"]), demo_rows("align_refusals", 7))
    assert covers(bench_of(example_config, "datashield")) != covers(longer)


@pytest.mark.long
@pytest.mark.slow
def test_dr_sft_end_to_end_against_plain_transformers(tiny_config: dict[str, Any]) -> None:
    config = tiny_config | {"refinement": {}, "method": "dr-sft"}
    run = tosslm.run(config, until="finetune")
    (table,) = read_tables(run.layout.weights)
    base = bench_of(tiny_config | {"refinement": {}}, "dr-sft").base.model
    (scores,) = [
        [row for part in sorted((run.path / "scores/round-0").glob("part-*")) for row in rows_of(part)],
    ]
    for row, weights, scored in zip(run.rows, table["weight"].to_pylist(), scores, strict=True):
        ratio = np.exp(independent_losses(base, row) - np.array(scored["loss_degraded"]))
        np.testing.assert_allclose(weights, np.minimum(1, 2 / (1 + ratio)), rtol=1e-3)
    weighed = (run.path / "model/adapter_model.safetensors").read_bytes()
    plain = tosslm.run(
        config | {"method": "sft", "run_dir": str(run.path.parent / "plain")},
        until="finetune",
    )
    assert (plain.path / "model/adapter_model.safetensors").read_bytes() != weighed


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [row for table in read_tables(path) for row in table.to_pylist()]


@pytest.mark.slow
def test_examples_are_drawn_by_the_seed(
    example_config: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tosslm.run(example_config | {"method": "larf"}, until="data")
    assert EXAMPLES == 100
    assert PROBES <= EXAMPLES
    monkeypatch.setattr("tosslm.methods.likeness.EXAMPLES", 3)
    first, again = (read_examples(bench_of(example_config, "larf")) for _ in range(2))
    other = read_examples(bench_of(example_config | {"seed": 8}, "larf"))
    assert (len(first.unsafe), len(first.safe), len(first.useful)) == (3, 3, 3)
    assert first == again
    assert first != other
    write_rows(tmp_path / "safety.jsonl", [{"messages": []}])
    with pytest.raises(InputError, match=r"compare\.safety: .*safety\.jsonl:1: the row has no messages"):
        read_examples(bench_of(example_config, "larf"))
