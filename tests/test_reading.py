"""What scoring leaves out: shared beginnings read twice, tokens nobody asks for, masks. The losses stay the same.

Compared with plain transformers, one row at a time, in float64 where it matters.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model
from transformers import (
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    LlamaConfig,
    LlamaForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
)

import tosslm
from test_losses import independent_losses, random_rows, small
from tosslm.model.attention import blockwise_causal
from tosslm.model.prefix import can_share
from tosslm.model.texts import beginnings, distinct_texts


def alike_rows(shared: int, own: list[int], response_from: int, seed: int = 0) -> list[dict[str, Any]]:
    """Rows with the same first tokens, then so many of their own; the response begins at ``response_from``."""
    rng = np.random.default_rng(seed)
    beginning = rng.integers(0, 97, shared).tolist()
    rows = []
    for i, length in enumerate(own):
        ids = beginning + [i % 97] * (length > 0) + rng.integers(0, 97, max(0, length - 1)).tolist()
        rows.append({"input_ids": ids, "response_mask": [t >= response_from for t in range(len(ids))]})
    return rows


def tokens_read(model: Any, rows: list[dict[str, Any]], **settings: Any) -> tuple[list[np.ndarray], int]:
    """The losses, and positions that went through the model."""
    read = 0

    def count(_module: Any, _inputs: Any, output: torch.Tensor) -> None:
        nonlocal read
        read += output.shape[0] * output.shape[1]

    hook = model.get_input_embeddings().register_forward_hook(count)
    try:
        return tosslm.response_losses(model, rows, **settings), read
    finally:
        hook.remove()


def assert_independent(model: Any, rows: list[dict[str, Any]], found: list[np.ndarray]) -> None:
    for row, losses in zip(rows, found, strict=True):
        assert losses.dtype == np.float32
        np.testing.assert_allclose(losses, independent_losses(model, row), atol=1e-4)


MODELS = {
    "tied head": lambda: small(LlamaConfig, LlamaForCausalLM, tie_word_embeddings=True),
    "untied head": lambda: small(LlamaConfig, LlamaForCausalLM, tie_word_embeddings=False),
    "window in every layer": lambda: small(MistralConfig, MistralForCausalLM, sliding_window=7),
    "window in one layer": lambda: small(
        Gemma3TextConfig,
        Gemma3ForCausalLM,
        sliding_window=9,
        layer_types=["sliding_attention", "full_attention"],
        final_logit_softcapping=5.0,
    ),
}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("response_from", [70, 95], ids=["begins within", "begins after"])
def test_a_beginning_is_read_once_and_the_losses_are_those_of_whole_rows(name: str, response_from: int) -> None:
    model = MODELS[name]()
    rows = [*alike_rows(90, [40, 75, 12, 30, 9], response_from), *random_rows(97)]
    found, read = tokens_read(model, rows, batch_tokens=400)
    assert_independent(model, rows, found)
    _, whole = tokens_read(model, rows, batch_tokens=400, share=False)
    assert read < whole - 200


def test_adapters_count_in_beginnings_too() -> None:
    model = get_peft_model(MODELS["tied head"](), LoraConfig(r=4, lora_alpha=9, target_modules=["q_proj", "up_proj"]))
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.3)
    rows = alike_rows(200, [40, 75, 12, 30, 9], 190)
    adapted = tosslm.response_losses(model, rows)
    assert_independent(model, rows, adapted)
    with model.disable_adapter():
        bare = tosslm.response_losses(model, rows)
        assert_independent(model, rows, bare)
    assert max(np.abs(a - b).max() for a, b in zip(adapted, bare, strict=True)) > 0.01


def test_a_row_that_another_begins_with_is_read_with_it() -> None:
    model = MODELS["tied head"]()
    long = random_rows(97, 1)[0] | {"input_ids": list(range(60)), "response_mask": [False] * 20 + [True] * 40}
    first_turn = {"input_ids": list(range(35)), "response_mask": [False] * 10 + [True] * 20 + [False] * 5}
    rows = [long, first_turn, dict(long)]
    found, read = tokens_read(model, rows)
    assert read == 59  # the longest row, without its last token
    assert_independent(model, rows, found)


def test_what_only_some_rows_answer_within_their_beginning_has_its_losses() -> None:
    model = MODELS["tied head"]()
    rows = alike_rows(90, [40, 75, 12, 30, 9], 95)
    for row, start in zip(rows, (70, 95, 80, 60, 91), strict=True):
        row["response_mask"] = [t >= start for t in range(len(row["input_ids"]))]
    assert_independent(model, rows, tosslm.response_losses(model, rows, batch_tokens=400))


def test_nothing_is_read_past_the_last_response_token_nor_of_rows_without_one() -> None:
    model = MODELS["tied head"]()
    rows = [
        {"input_ids": list(range(50)), "response_mask": [t == 12 for t in range(50)]},
        {"input_ids": list(range(30, 70)), "response_mask": [False] * 40},
    ]
    done: list[tuple[int, int]] = []
    found, read = tokens_read(model, rows, advance=lambda *so_far: done.append(so_far))
    assert read == 12
    assert [len(losses) for losses in found] == [1, 0]
    assert np.sum(done, axis=0).tolist() == [2, 90]


def test_a_state_that_is_not_attentions_is_not_continued() -> None:
    torch.manual_seed(0)
    model = MambaForCausalLM(MambaConfig(vocab_size=97, hidden_size=32, num_hidden_layers=2, state_size=8)).eval()
    assert not can_share(model)
    rows = alike_rows(90, [40, 75, 12], 95)
    assert_independent(model, rows, tosslm.response_losses(model, rows, batch_tokens=200))


def test_angles_that_depend_on_how_much_is_read_at_once_are_not_continued() -> None:
    rope = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}
    assert not can_share(small(LlamaConfig, LlamaForCausalLM, rope_parameters=rope))
    assert can_share(small(LlamaConfig, LlamaForCausalLM))


def test_the_model_is_given_back_as_it_was() -> None:
    model = get_peft_model(MODELS["tied head"](), LoraConfig(r=4, target_modules=["q_proj"]))
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    attention = model.config._attn_implementation
    tosslm.response_losses(model, random_rows(97))
    assert model.config._attn_implementation == attention
    assert not any("forward" in vars(module) for module in model.modules())
    assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())


@pytest.mark.parametrize(("asking", "known"), [(1, 1), (63, 63), (130, 130), (70, 200), (1, 90)])
def test_attention_in_blocks_is_attention_and_so_are_its_gradients(asking: int, known: int) -> None:
    torch.manual_seed(0)
    query = torch.randn(2, 6, asking, 8, requires_grad=True)
    key, value = (torch.randn(2, 3, known, size, requires_grad=True) for size in (8, 5))
    mask = torch.ones(asking, known, dtype=torch.bool).tril(known - asking)
    scores = (query @ key.repeat_interleave(2, 1).mT * 0.3).masked_fill(~mask, -torch.inf)
    expected = scores.double().softmax(-1) @ value.repeat_interleave(2, 1).double()
    found = blockwise_causal(query, key, value, 0.3)
    torch.testing.assert_close(found.double(), expected.transpose(1, 2), atol=1e-5, rtol=1e-5)
    pull = torch.randn_like(found)
    gradients = torch.autograd.grad(found, (query, key, value), pull)
    wanted = torch.autograd.grad(expected.transpose(1, 2), (query, key, value), pull.double())
    torch.testing.assert_close(gradients, wanted, atol=1e-4, rtol=1e-4)


ROWS = st.lists(st.lists(st.integers(0, 1), min_size=1, max_size=9), max_size=12)


@given(ROWS, st.integers(0, 8))
def test_groups_hold_every_row_once_and_begin_alike(ids: list[list[int]], least: int) -> None:
    rows = [{"input_ids": one, "response_mask": [False, *[True] * (len(one) - 1)]} for one in ids]
    texts = distinct_texts(rows)
    assert sorted(i for text in texts for i in text.rows) == [i for i, one in enumerate(ids) if len(one) > 1]
    for text in texts:
        assert all(ids[i] == text.input_ids[: len(ids[i])].tolist() for i in text.rows)
    groups = beginnings(texts, least)
    assert sorted(text.rows for group in groups for text in group.texts) == sorted(text.rows for text in texts)
    for group in groups:
        # One token more is the same than is shared: what the last shared one predicts.
        assert len({tuple(text.input_ids[: group.shared + 1]) for text in group.texts if group.shared}) <= 1
        assert not group.shared or (len(group.texts) - 1) * group.shared >= least
