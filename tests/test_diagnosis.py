"""What diagnosis measures, against full softmaxes in float64 and counts by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as stn
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import LlamaForCausalLM

import tosslm
from tosslm.diagnosis.causes import FIRST_TOKENS, own_answers, weigh_causes
from tosslm.diagnosis.curves import position_records, with_shift
from tosslm.diagnosis.divergence import row_divergences
from tosslm.diagnosis.dropped import DroppedTokens
from tosslm.diagnosis.intervals import position_means, row_mean
from tosslm.diagnosis.words import token_classes
from tosslm.model.head import kl_divergence
from tosslm.progress import SilentReporter

NAMES = ("degraded", "model")


@pytest.fixture(scope="module")
def moved(tiny_model_folder: Path) -> Any:
    """The tiny model with two adapters that move it far: one of them sits on the head too."""
    torch.manual_seed(3)
    plain = LlamaForCausalLM.from_pretrained(tiny_model_folder, dtype=torch.float32)
    plain.get_input_embeddings().weight.data *= 10  # tied to the head: else all distributions are nearly uniform
    modules = ["q_proj", "down_proj"]
    model = get_peft_model(plain, LoraConfig(r=4, target_modules=[*modules, "lm_head"]), adapter_name="degraded")
    model.add_adapter("model", LoraConfig(r=2, target_modules=modules))
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=2.0)
    return model.eval()


def example_rows() -> list[dict[str, Any]]:
    """Rows of several lengths; responses in one and in two pieces."""
    rng = np.random.default_rng(5)
    rows = []
    for length, pieces in ((9, [(4, 9)]), (30, [(3, 10), (20, 30)]), (17, [(16, 17)]), (30, [(1, 30)])):
        mask = np.zeros(length, dtype=bool)
        for start, end in pieces:
            mask[start:end] = True
        rows.append({"input_ids": rng.integers(0, 40_000, length).tolist(), "response_mask": mask.tolist()})
    return rows


def full_softmaxes(model: PeftModel, row: dict[str, Any]) -> dict[str, np.ndarray]:
    """log p over the whole vocabulary before each response token, float64, one row at a time and all at once."""
    ids = torch.tensor([row["input_ids"]])
    before = np.flatnonzero(row["response_mask"]) - 1
    logs = {}
    with torch.no_grad():
        with model.disable_adapter():
            logs["base"] = model(ids).logits[0]
        for name in NAMES:
            model.set_adapter(name)
            logs[name] = model(ids).logits[0]
    return {name: torch.log_softmax(value.double(), -1).numpy()[before] for name, value in logs.items()}


def full_kl(log_p: np.ndarray, log_q: np.ndarray) -> np.ndarray:
    return (np.exp(log_p) * (log_p - log_q)).sum(1)


@pytest.mark.parametrize("logits_bytes", [2**28, 4 * 49152 * 10 * 3])
def test_divergences_equal_a_full_softmax_whatever_the_chunks(
    moved: Any, monkeypatch: pytest.MonkeyPatch, logits_bytes: int
) -> None:
    monkeypatch.setattr("tosslm.model.head.LOGITS_BYTES", logits_bytes)
    rows = example_rows()
    with SilentReporter().task("", 0) as task:
        measured = row_divergences(moved, rows, NAMES, positions=12, batch_tokens=64, task=task)
    for row, ours in zip(rows, measured, strict=True):
        logs = {name: value[:12] for name, value in full_softmaxes(moved, row).items()}
        targets = np.array(row["input_ids"])[np.flatnonzero(row["response_mask"])[:12]]
        away = full_kl(logs["degraded"], logs["base"])
        assert full_kl(logs["base"], logs["model"]).max() > 0.01
        for name in ("base", *NAMES):
            expected = {
                "kl": full_kl(logs["base"], logs[name]),
                "shift": away - full_kl(logs["degraded"], logs[name]),
                "loss": -logs[name][np.arange(len(targets)), targets],
            }
            for measure, values in expected.items():
                np.testing.assert_allclose(ours[name][measure], values, rtol=0, atol=1e-5, err_msg=measure)


def test_no_more_logits_stand_in_memory_than_the_bound_says(moved: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    # Float64 counts twice: three models' log-probabilities, the weights of two of them, and a difference.
    bound = 4 * 49152 * 2 * (3 + 2 + 1) * 2
    monkeypatch.setattr("tosslm.model.head.LOGITS_BYTES", bound)
    heads: list[int] = []
    moved.get_output_embeddings().register_forward_hook(lambda _m, inputs, _o: heads.append(inputs[0].shape[0]))
    with SilentReporter().task("", 0) as task:
        row_divergences(moved, example_rows(), NAMES, positions=64, batch_tokens=4096, task=task)
    assert max(heads) == 2
    assert sum(n == 2 for n in heads) >= 3 * 20


@given(stn.arrays(np.float64, (2, 7), elements=st.floats(-8, 8)))
def test_kl_is_never_negative_and_zero_for_equals(logits: np.ndarray) -> None:
    p, q = torch.log_softmax(torch.tensor(logits), -1)
    assert float(kl_divergence(p[None], q[None])) >= -1e-12
    assert float(kl_divergence(p[None], p[None])) == pytest.approx(0, abs=1e-12)


def test_intervals_are_over_rows_and_hold_the_mean() -> None:
    rng = np.random.default_rng(0)
    values = [rng.normal(size=length) + i for i, length in enumerate((3, 5, 5, 2))]
    points = position_means(values)
    assert [point["n"] for point in points] == [4, 4, 3, 2, 2]
    for i, point in enumerate(points):
        own = [row[i] for row in values if len(row) > i]
        assert point["mean"] == pytest.approx(np.mean(own))
        assert min(own) - 1e-9 <= point["low"] <= point["mean"] <= point["high"] <= max(own) + 1e-9
    same = position_means([np.array([2.0, 3.0])] * 6)
    assert [(point["low"], point["high"]) for point in same] == [(2.0, 2.0), (3.0, 3.0)]
    assert position_means([]) == []


def test_an_interval_has_the_width_that_theory_gives_it() -> None:
    values = np.random.default_rng(1).normal(size=400)
    found = row_mean(values.tolist())
    error = values.std() / np.sqrt(len(values))
    assert (found["high"] - found["low"]) / 2 == pytest.approx(1.96 * error, rel=0.15)


def test_token_classes() -> None:
    content = "I can't re-open Löwen\u2019s 42 doors, 👍\n"
    pieces = ["I", " can", "'t", " re", "-", "open", " Lö", "wen", "\u2019s", " 42", " do", "ors", ",", " 👍", "\n"]
    offsets, at = [], 0
    for piece in pieces:
        offsets.append([1, at, at + len(piece)])
        at += len(piece)
    assert at == len(content)
    messages = [{"role": "user", "content": ""}, {"role": "assistant", "content": content}]
    kinds = ["function word", "function word", "word piece", "content word", "punctuation", "content word"]
    kinds += ["content word", "word piece", "word piece", "number", "content word", "word piece", "punctuation"]
    assert token_classes(messages, [*offsets, [-1, -1, -1]]) == [*kinds, "symbol", "space", "no text"]


def test_dropped_tokens_are_counted_where_they_lie() -> None:
    counts = DroppedTokens()
    scores = [np.array([1.0, -1.0, 3.0]), np.array([2.0, 0.5])]
    keep = [np.array([True, True, False]), np.array([False, True])]
    counts.add("a", ["number", "space", "number"], scores[0], keep[0], np.array([False, True, True]))
    counts.add("b", ["space", "space"], scores[1], keep[1], None)
    table = {(row["by"], row["key"]): row for row in counts.table()}
    assert (table["class", "number"]["tokens"], table["class", "number"]["dropped"]) == (2, 1)
    assert table["class", "number"]["mean_score"] == pytest.approx(2.0)
    assert table["source", "b"]["dropped"] == 1
    assert [table["position", str(i)]["tokens"] for i in range(3)] == [2, 2, 1]
    first = counts.first_tokens()
    assert [row["masked"] for row in first[:4]] == pytest.approx([2 / 5, 4 / 5, 1, 1])
    assert [row["of_dropped"] for row in first[:3]] == pytest.approx([1 / 2, 1 / 2, 1])
    assert [row["of_positive_score"] for row in first[:3]] == pytest.approx([3 / 6.5, 3.5 / 6.5, 1])
    assert [row["of_unsafe"] for row in first[:3]] == pytest.approx([0, 1 / 2, 1])
    assert counts.selection() == pytest.approx({"masked": 2 / 5, "of_unsafe": 1 / 2})


def test_each_answer_of_a_row_has_first_tokens() -> None:
    counts = DroppedTokens()
    keep = np.array([False, True, True, False, True, True])
    counts.add("a", ["word"] * 6, np.zeros(6), keep, None, np.array([0, 1, 2, 0, 1, 2]))
    first = counts.first_tokens()[0]
    assert (first["masked"], first["of_dropped"]) == pytest.approx((2 / 6, 1))
    assert [row["tokens"] for row in counts.table() if row["by"] == "position"] == [2, 2, 2]


def test_positions_are_those_in_an_answer() -> None:
    row = {"set": "harmful", "response_mask": [False, True, True, False, True, True, True]}
    shift = np.array([1.0, 2.0, 3.0, 4.0])  # the last token is not among those measured
    points = position_records([row], [{"model": {"shift": shift}}])
    assert [(point["position"], point["mean"], point["n"]) for point in points] == [(0, 2.0, 2), (1, 3.0, 2)]


def test_causes_are_the_change_of_log_odds(
    moved: Any, smollm2_tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against log-probabilities of whole sequences; a random model refuses nothing, so its words are given."""
    refusal = smollm2_tokenizer("I'm sorry, I can't help with that.")["input_ids"]
    monkeypatch.setattr(
        "tosslm.diagnosis.causes.own_answers",
        lambda model, tokenizer, prompts, budget: ([refusal, None, refusal, None], 0),
    )
    rows = example_rows()
    found = weigh_causes(moved, smollm2_tokenizer, rows, NAMES, 512)
    assert (found["prompts"], found["refused"]) == (4, 2)

    def log_p(name: str, prompt: list[int], answer: list[int]) -> float:
        mask = [False] * len(prompt) + [True] * len(answer)
        logs = full_softmaxes(moved, {"input_ids": prompt + answer, "response_mask": mask})[name]
        return float(logs[np.arange(len(answer)), answer].sum())

    learnt, forgotten = [], []
    for i in (0, 2):
        first = rows[i]["response_mask"].index(True)
        prompt, answer = rows[i]["input_ids"][:first], rows[i]["input_ids"][first:]
        n = min(len(answer), len(refusal))
        learnt.append(log_p("model", prompt, answer[:n]) - log_p("base", prompt, answer[:n]))
        forgotten.append(log_p("base", prompt, refusal[:n]) - log_p("model", prompt, refusal[:n]))
    own = found["models"]["model"]
    assert own["harm_learnt"]["mean"] == pytest.approx(np.mean(learnt), abs=1e-4)
    assert own["refusals_forgotten"]["mean"] == pytest.approx(np.mean(forgotten), abs=1e-4)


def test_the_bases_own_answers_are_its_own_whatever_the_batch_and_its_settings(
    moved: Any, smollm2_tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against a plain loop without cache, padding and adapters; a repetition penalty of the model's is not heeded."""
    monkeypatch.setattr("tosslm.diagnosis.causes.is_refusal", lambda text: True)
    monkeypatch.setattr(moved.generation_config, "repetition_penalty", 5.0)
    prompts = [list(range(3, 3 + n)) for n in (4, 9, 2, 7)]
    for budget in (30, 512):
        found, reasoning = own_answers(moved, smollm2_tokenizer, prompts, budget)
        assert reasoning == 0
        for prompt, own in zip(prompts, found, strict=True):
            ids = list(prompt)
            while len(ids) < len(prompt) + len(own or []):
                with torch.no_grad(), moved.disable_adapter():
                    ids.append(int(moved(torch.tensor([ids])).logits[0, -1].argmax()))
            assert ids[len(prompt) :] == own
            assert own
            assert len(own) == FIRST_TOKENS or own[-1] == smollm2_tokenizer.eos_token_id


@pytest.mark.long
def test_the_stage_writes_what_the_parts_compute(tiny_config: dict[str, Any]) -> None:
    tiny_config["diagnosis"] = {"positions": 9, "rows": 2}
    run = tosslm.run(tiny_config, until="diagnose")
    told = json.loads((run.path / "diagnosis/diagnosis.json").read_text())
    assert told["rows"] == {"harmful": 2, "utility": 2}
    rows = pq.read_table(run.path / "diagnosis/rows.parquet").to_pylist()
    assert {row["model"] for row in rows} == {"base", "degraded", "model"}
    assert all(len(row["kl"]) == 9 for row in rows)
    own = [row for row in rows if (row["set"], row["model"]) == ("harmful", "degraded")]
    assert told["means"]["harmful"]["degraded"]["kl"]["mean"] == pytest.approx(np.mean([row["kl"] for row in own]))
    # The degraded reference is as near to itself as can be: its shift is its whole distance from the base.
    points = pq.read_table(run.path / "diagnosis/positions.parquet").to_pylist()
    drawn = ElementTree.parse(run.path / "diagnosis/curves.svg").getroot()
    titles = [text.text for text in drawn.iter("{http://www.w3.org/2000/svg}text") if text.get("class") == "title"]
    assert titles == [
        f"{what}, {name} rows"
        for name in ("harmful", "utility")
        for what in ("Distance from the base", "Shift toward harm")
    ]
    shift = [p["mean"] for p in points if (p["set"], p["model"], p["measure"]) == ("harmful", "degraded", "shift")]
    assert len(shift) == 9
    assert min(shift) >= -1e-6
    dropped = pq.read_table(run.path / "diagnosis/dropped.parquet").to_pylist()
    for by in ("source", "class"):
        assert (
            sum(row["dropped"] for row in dropped if row["by"] == by)
            == run.manifest["stages"]["selection"]["discarded"]
        )


@pytest.mark.long
def test_without_held_out_rows_the_rest_is_still_told(tiny_config: dict[str, Any]) -> None:
    tiny_config["references"]["holdout"] = 0
    run = tosslm.run(tiny_config, until="diagnose")
    told = json.loads((run.path / "diagnosis/diagnosis.json").read_text())
    assert told["rows"] == {"harmful": 0, "utility": 0}
    assert len(told["first_tokens"]) == 20


def test_a_reserved_name_of_an_adapter_is_refused(tiny_config: dict[str, Any]) -> None:
    tiny_config["diagnosis"] = {"adapters": {"degraded": "somewhere"}}
    with pytest.raises(tosslm.InputError, match=r"diagnosis\.adapters: degraded is measured anyway"):
        tosslm.run(tiny_config)


@pytest.mark.parametrize(("mean", "told"), [(0.02, 0.5), (0.002, None), (-0.1, None)])
def test_the_first_tokens_share_of_a_shift_is_told_where_there_is_a_shift(mean: float, told: float | None) -> None:
    points = [{"set": "harmful", "model": "model", "measure": "shift", "mean": mean, "n": 3} for _ in range(4)]
    [row] = with_shift([{"first": 2}], points, "model")
    assert row["of_shift"] == (None if told is None else pytest.approx(told))
