"""REINFORCE against hand-worked numbers, a double loop, and the policy gradient of a whole distribution."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from pydantic import ValidationError

from loss_checks import assert_padding_is_ignored, cases
from ppokit_losses.reinforce import Reinforce, reinforce

RATIOS = torch.tensor([[0.5, 1.0, 4.0]])
ADVANTAGES = torch.tensor([[1.0, -1.0, 2.0]])
NEW = torch.tensor([[-1.0, -2.0, -0.5]])


def both(new, old, advantages, weigh):
    new = new.clone().requires_grad_()
    loss = reinforce(new, old, advantages, importance_weight=weigh)
    loss.sum().backward()
    assert new.grad is not None
    return loss.detach(), new.grad


def test_by_hand() -> None:
    loss, slope = both(NEW, NEW - RATIOS.log(), ADVANTAGES, False)
    torch.testing.assert_close(loss, torch.tensor([[1.0, -2.0, 1.0]]))
    torch.testing.assert_close(slope, -ADVANTAGES)


def test_by_hand_with_the_importance_weight() -> None:
    loss, slope = both(NEW, NEW - RATIOS.log(), ADVANTAGES, True)
    torch.testing.assert_close(loss, torch.tensor([[0.5, -2.0, 4.0]]))
    torch.testing.assert_close(slope, torch.tensor([[-0.5, 1.0, -8.0]]))


@given(case=cases(3))
@settings(deadline=None)
def test_equals_the_definition_in_value_and_gradient(case) -> None:
    (new, old, advantages), _ = case
    for weigh in (False, True):
        slope = torch.zeros_like(new)
        for b in range(new.shape[0]):
            for t in range(new.shape[1]):
                weight = math.exp(min(new[b, t] - old[b, t], 60)) if weigh else 1
                slope[b, t] = -weight * advantages[b, t].item()
        for got, expected in zip(both(new, old, advantages, weigh), (slope * new, slope), strict=True):
            torch.testing.assert_close(got, expected)


@pytest.mark.parametrize("weigh", [False, True])
def test_its_expected_gradient_is_that_of_the_expected_advantage(weigh) -> None:
    """Over a whole distribution of three tokens: weighed, also where another policy drew them."""
    logits = torch.tensor([0.3, -0.4, 1.1], dtype=torch.float64, requires_grad=True)
    advantages = torch.tensor([[1.0, -2.0, 0.5]], dtype=torch.float64)
    (expected,) = torch.autograd.grad(-(logits.softmax(0) * advantages[0]).sum(), logits)
    sampler = torch.tensor([[0.5, 0.3, 0.2]], dtype=torch.float64) if weigh else logits.softmax(0)[None]
    drawn = sampler.detach()
    loss = reinforce(logits.log_softmax(0)[None], drawn.log(), advantages, importance_weight=weigh)
    (got,) = torch.autograd.grad((drawn * loss).sum(), logits)
    torch.testing.assert_close(got, expected)


def test_the_weight_is_a_constant_to_the_gradient() -> None:
    new = NEW.clone().requires_grad_()
    loss = reinforce(new, NEW - 0.1, ADVANTAGES, importance_weight=True).sum()
    (slope,) = torch.autograd.grad(loss, new, create_graph=True)
    assert not slope.requires_grad


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("log_ratio", [50.0, -50.0, 500.0, -500.0])
def test_far_policies_stay_finite(log_ratio, dtype) -> None:
    new = torch.tensor([[log_ratio]], dtype=dtype)
    loss, slope = both(new, torch.zeros_like(new), torch.ones(1, 1), True)
    assert loss.dtype == torch.float32
    assert loss.isfinite().all()
    expected = -math.exp(min(log_ratio, 60))
    assert slope.item() == pytest.approx(expected, rel=1e-2, abs=1e-20)
    _, slope = both(new, torch.zeros_like(new), torch.ones(1, 1), False)
    assert slope.item() == -1


def test_bfloat16_is_computed_in_float32() -> None:
    new, advantages = torch.tensor([[-0.3]]).bfloat16(), torch.tensor([[0.7]]).bfloat16()
    loss = reinforce(new, new, advantages, importance_weight=False)
    assert loss.item() == 0.69921875 * 0.30078125  # bfloat16 would round the product


def test_gradcheck() -> None:
    new = NEW.double().requires_grad_()

    def loss(new):
        return reinforce(new, new.detach(), ADVANTAGES.double(), importance_weight=False)

    assert torch.autograd.gradcheck(loss, (new,))


@given(case=cases(3))
@settings(deadline=None)
def test_what_stands_on_padding_reaches_no_real_token(case) -> None:
    assert_padding_is_ignored(partial(reinforce, importance_weight=True), case)


def test_component_and_metrics(make_inputs) -> None:
    new = NEW.clone().requires_grad_()
    inputs = make_inputs(new_logprobs=new, old_logprobs=NEW - RATIOS.log(), advantages=ADVANTAGES)
    plain = Reinforce().token_losses(inputs)
    torch.testing.assert_close(plain.token_losses.detach(), torch.tensor([[1.0, -2.0, 1.0]]))
    assert plain.token_losses.requires_grad
    torch.testing.assert_close(plain.metrics["policy/ratio"], RATIOS)
    assert not plain.metrics["policy/ratio"].requires_grad
    weighed = Reinforce(importance_weight=True).token_losses(inputs)
    torch.testing.assert_close(weighed.token_losses.detach(), torch.tensor([[0.5, -2.0, 4.0]]))


def test_unknown_options_are_refused() -> None:
    with pytest.raises(ValidationError):
        Reinforce(clip=0.2)
