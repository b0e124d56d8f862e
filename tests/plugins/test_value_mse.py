"""The squared error of the value function: hand-worked numbers, its gradient, padding."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from pydantic import ValidationError

from loss_checks import assert_padding_is_ignored, cases
from ppokit_losses.value_clip import value_clip
from ppokit_losses.value_mse import ValueMSE, ppokit_losses, value_mse

VALUES = torch.tensor([[1.1, 2.0, 0.0]])
RETURNS = torch.tensor([[2.0, 2.0, 3.0]])


def test_by_hand() -> None:
    torch.testing.assert_close(value_mse(VALUES, RETURNS), torch.tensor([[0.405, 0.0, 4.5]]))


def test_the_gradient_is_the_error() -> None:
    values = VALUES.clone().requires_grad_()
    value_mse(values, RETURNS).sum().backward()
    torch.testing.assert_close(values.grad, torch.tensor([[-0.9, 0.0, -3.0]]))


@given(case=cases(3))
@settings(deadline=None)
def test_equals_the_definition_and_the_clipped_loss_with_a_wide_range(case) -> None:
    (values, old, returns), _ = case
    expected = torch.zeros_like(values)
    for b in range(values.shape[0]):
        for t in range(values.shape[1]):
            expected[b, t] = (values[b, t].item() - returns[b, t].item()) ** 2 / 2
    torch.testing.assert_close(value_mse(values, returns), expected)
    torch.testing.assert_close(value_mse(values, returns), value_clip(values, old, returns, clip_range=1e9))


def test_gradcheck() -> None:
    returns = RETURNS.double()
    assert torch.autograd.gradcheck(lambda v: value_mse(v, returns), (VALUES.double().requires_grad_(),))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_far_values_stay_finite_and_narrow_ones_are_widened(dtype) -> None:
    values = torch.tensor([[1e6, -1e6, 1.0]], dtype=dtype).requires_grad_()
    loss = value_mse(values, torch.tensor([[-1e6, 1e6, 1.00390625]]))
    loss.sum().backward()
    assert loss.dtype == torch.float32
    assert loss.isfinite().all()
    assert loss[0, 2].item() == 0.5 * 0.00390625**2
    assert values.grad is not None
    assert values.grad.isfinite().all()


def test_targets_are_widened_before_the_difference() -> None:
    values, returns = torch.tensor([[0.1]], dtype=torch.bfloat16), torch.tensor([[3.0]], dtype=torch.bfloat16)
    assert value_mse(values, returns).item() == pytest.approx(0.5 * (0.10009765625 - 3) ** 2, rel=1e-6)


@given(case=cases(2))
@settings(deadline=None)
def test_what_stands_on_padding_reaches_no_real_token(case) -> None:
    assert_padding_is_ignored(value_mse, case)


def test_component(make_inputs) -> None:
    inputs = make_inputs(values=VALUES.clone().requires_grad_(), returns=RETURNS)
    output = ValueMSE().token_losses(inputs)
    torch.testing.assert_close(output.token_losses.detach(), torch.tensor([[0.405, 0.0, 4.5]]))
    assert output.token_losses.requires_grad
    assert ppokit_losses()[0].needs == {"values"}


def test_options_are_none() -> None:
    with pytest.raises(ValidationError):
        ValueMSE(clip_range=0.2)
