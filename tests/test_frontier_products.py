"""Bfloat16 products by way of float32, against exact sums of the same numbers that are rounded once."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from studies.frontier import products
from studies.frontier.products import wide_attention, wide_linear, widen_products


def _random(*shape: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.randn(shape, generator=generator).bfloat16()


def _exact(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """A product in float64, which sums a few hundred bfloat16 products without any error that shows."""
    product = first.detach().double().numpy() @ second.detach().double().numpy()
    return torch.from_numpy(np.ascontiguousarray(product)).bfloat16()


def test_a_product_is_the_exact_sum_rounded_once() -> None:
    inputs, weight = _random(40, 96), _random(64, 96)
    assert_alike(wide_linear(inputs, weight), _exact(inputs, weight.T))


def assert_alike(found: torch.Tensor, wanted: torch.Tensor) -> None:
    """Equal but for sums that lie between two bfloat16 numbers, which float32 may round to the other one."""
    assert found.dtype == torch.bfloat16
    assert (found == wanted).float().mean() > 0.99
    torch.testing.assert_close(found, wanted, rtol=2**-7, atol=1e-4)


def test_gradients_are_exact_sums_rounded_once() -> None:
    inputs, weight, above = _random(40, 96).requires_grad_(), _random(64, 96).requires_grad_(), _random(40, 64)
    wide_linear(inputs, weight).backward(above)
    assert inputs.grad is not None
    assert weight.grad is not None
    assert_alike(inputs.grad, _exact(above, weight))
    assert_alike(weight.grad, _exact(above.T, inputs))


def test_a_bias_is_added_before_the_sum_is_rounded() -> None:
    inputs, weight = torch.tensor([[1.0, 2.0**-8, 2.0**-9]]).bfloat16(), torch.ones(1, 3).bfloat16()
    bias = torch.tensor([2.0**-8]).bfloat16()
    assert wide_linear(inputs, weight, bias).item() == 1 + 2.0**-7  # rounded in between it were 1 + 2**-6
    assert (wide_linear(inputs, weight) + bias).item() == 1 + 2.0**-6


def test_a_frozen_weight_that_changes_is_read_again() -> None:
    inputs, weight = _random(3, 8), torch.nn.Parameter(_random(5, 8), requires_grad=False)
    before = wide_linear(inputs, weight)
    with torch.no_grad():
        weight.mul_(2)
    assert torch.equal(wide_linear(inputs, weight), before * 2)


def test_a_model_that_has_answered_can_be_trained() -> None:
    weight = torch.nn.Parameter(_random(5, 8), requires_grad=False)
    with torch.inference_mode():
        wide_linear(_random(3, 8), weight)
    inputs = _random(3, 8).requires_grad_()
    wide_linear(inputs, weight).sum().backward()
    assert inputs.grad is not None
    assert_alike(inputs.grad, _exact(torch.ones(3, 5), weight))


@pytest.mark.parametrize("masked", [False, True])
def test_attention_is_that_of_float64_rounded_once(masked: bool) -> None:
    query, key, value = (_random(2, length, 16) for length in (5, 7, 7))
    mask = torch.where(torch.arange(7) < 4, 0.0, -torch.inf).bfloat16().expand(2, 5, 7) if masked else None
    weights = query.double() @ key.double().transpose(1, 2) / 4
    weights = weights if mask is None else weights + mask.double()
    wanted = (weights.softmax(-1) @ value.double()).bfloat16()
    assert_alike(wide_attention(query, key, value, attn_mask=mask), wanted)


def test_float32_is_left_alone() -> None:
    inputs, weight = _random(3, 8).float(), _random(5, 8).float()
    assert torch.equal(wide_linear(inputs, weight), torch.nn.functional.linear(inputs, weight))
    same = _random(1, 3, 8).float()
    attended = torch.nn.functional.scaled_dot_product_attention(same, same, same)
    assert torch.equal(wide_attention(same, same, same), attended)


@pytest.mark.parametrize("fast", [False, True])
def test_layers_are_changed_where_the_processor_is_slow_alone(monkeypatch: pytest.MonkeyPatch, fast: bool) -> None:
    for name in ("linear", "scaled_dot_product_attention"):
        monkeypatch.setattr(torch.nn.functional, name, getattr(torch.nn.functional, name))
    monkeypatch.setattr(products, "multiplies_bfloat16_fast", lambda: fast)
    widen_products()
    assert (torch.nn.functional.linear is wide_linear) is not fast
    assert (torch.nn.functional.scaled_dot_product_attention is wide_attention) is not fast
