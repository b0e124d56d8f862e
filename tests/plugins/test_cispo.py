"""CISPO's loss against hand-worked numbers, a double loop and its gradient, which only log p carries."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from loss_checks import INF, assert_padding_is_ignored, cases
from ppokit_losses.cispo import CISPO, cispo
from ppokit_losses.reinforce import reinforce

# ratio, advantage, log p_new; with bounds .8 and 1.2 the weights are .8, 1, 1.2
RATIOS = torch.tensor([[0.5, 1.0, 1.5]])
ADVANTAGES = torch.tensor([[1.0, -1.0, 2.0]])
NEW = torch.tensor([[-1.0, -2.0, -0.5]])


def by_definition(new, old, advantages, low, high):
    expected, slope = torch.zeros_like(new), torch.zeros_like(new)
    for b in range(new.shape[0]):
        for t in range(new.shape[1]):
            ratio = math.exp(min(new[b, t] - old[b, t], 60))
            weight = min(max(ratio, 1 - low), 1 + high)
            slope[b, t] = -weight * advantages[b, t].item()
            expected[b, t] = slope[b, t] * new[b, t]
    return expected, slope


def both(new, old, advantages, **bounds):
    new = new.clone().requires_grad_()
    loss = cispo(new, old, advantages, **bounds)
    loss.sum().backward()
    assert new.grad is not None
    return loss.detach(), new.grad


def test_by_hand() -> None:
    loss, slope = both(NEW, NEW - RATIOS.log(), ADVANTAGES, clip_low=0.2, clip_high=0.2)
    torch.testing.assert_close(slope, torch.tensor([[-0.8, 1.0, -2.4]]))
    torch.testing.assert_close(loss, torch.tensor([[0.8, -2.0, 1.2]]))


def test_the_defaults_have_no_lower_bound_and_count_a_ratio_as_at_most_5() -> None:
    options = CISPO()
    bounds = {"clip_low": options.clip_low, "clip_high": options.clip_high}
    ratios = torch.tensor([[0.001, 4.0, 400.0]])
    _, slope = both(NEW, NEW - ratios.log(), -torch.ones(1, 3), **bounds)
    torch.testing.assert_close(slope, torch.tensor([[0.001, 4.0, 5.0]]))


@given(case=cases(3), low=st.floats(0.01, 1), high=st.floats(0.01, 5))
@settings(deadline=None)
def test_equals_the_definition_in_value_and_gradient(case, low, high) -> None:
    (new, old, advantages), _ = case
    for got, expected in zip(
        both(new, old, advantages, clip_low=low, clip_high=high),
        by_definition(new, old, advantages, low, high),
        strict=True,
    ):
        torch.testing.assert_close(got, expected)


def test_no_token_loses_its_gradient_where_ppos_clip_would_stop_it() -> None:
    for ratio, advantage in ((3.0, 1.0), (0.1, -1.0)):
        old = NEW[:, :1] - math.log(ratio)
        _, slope = both(NEW[:, :1], old, torch.full((1, 1), advantage), clip_low=0.2, clip_high=0.2)
        assert slope.item() == pytest.approx(-advantage * min(max(ratio, 0.8), 1.2))


def test_the_gradient_goes_through_log_p_alone() -> None:
    """Not through the ratio, of either policy: it is linear in log p_new where the weight is a constant."""
    new, old = NEW.clone().requires_grad_(), (NEW - 0.1).requires_grad_()
    loss = cispo(new, old, ADVANTAGES, clip_low=0.2, clip_high=0.2).sum()
    (slope,) = torch.autograd.grad(loss, new, create_graph=True)
    torch.testing.assert_close(slope.detach(), -math.exp(0.1) * ADVANTAGES)
    assert not slope.requires_grad
    assert old.grad is None


def test_gradcheck_with_the_weight_of_the_same_place() -> None:
    """A numerical derivative sees the weight move, so it is taken where the clip holds the weight still."""
    new = torch.tensor([[-1.0, -2.0, -0.5]], dtype=torch.float64)
    old = new - torch.tensor([[0.9, -0.9, 2.0]], dtype=torch.float64)

    def loss(new):
        return cispo(new, old, ADVANTAGES.double(), clip_low=0.2, clip_high=0.2)

    assert torch.autograd.gradcheck(loss, (new.requires_grad_(),))


def test_without_bounds_it_is_the_weighed_reinforce() -> None:
    new, old, advantages = torch.randn(3, 4, 5)
    torch.testing.assert_close(
        cispo(new, old, advantages, clip_low=1.0, clip_high=1e9),
        reinforce(new, old, advantages, importance_weight=True),
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("log_ratio", [50.0, -50.0, 500.0, -500.0])
def test_far_policies_stay_finite_and_bounded(log_ratio, dtype) -> None:
    new = torch.tensor([[log_ratio]], dtype=dtype)
    loss, slope = both(new, torch.zeros_like(new), torch.ones(1, 1), clip_low=0.2, clip_high=4.0)
    assert loss.dtype == torch.float32
    assert loss.isfinite().all()
    assert slope.item() == pytest.approx(-5.0 if log_ratio > 0 else -0.8, rel=1e-2)


def test_bfloat16_is_computed_in_float32() -> None:
    new = torch.tensor([[0.0078125]], dtype=torch.bfloat16)
    loss = cispo(new, torch.zeros_like(new), torch.ones(1, 1), clip_low=0.2, clip_high=0.2)
    assert loss.item() == pytest.approx(-math.exp(0.0078125) * 0.0078125, rel=1e-6)


@given(case=cases(3))
@settings(deadline=None)
def test_what_stands_on_padding_reaches_no_real_token(case) -> None:
    assert_padding_is_ignored(partial(cispo, clip_low=0.2, clip_high=0.3), case)


def test_component_and_metrics(make_inputs) -> None:
    new = NEW.clone().requires_grad_()
    inputs = make_inputs(new_logprobs=new, old_logprobs=NEW - RATIOS.log(), advantages=ADVANTAGES)
    output = CISPO(clip_low=0.3, clip_high=0.25).token_losses(inputs)
    torch.testing.assert_close(output.token_losses.detach(), torch.tensor([[0.7, -2.0, 1.25]]))
    assert output.token_losses.requires_grad
    assert output.metrics["policy/clip_fraction"].tolist() == [[1, 0, 1]]
    torch.testing.assert_close(output.metrics["policy/ratio"], RATIOS)
    assert not any(metric.requires_grad for metric in output.metrics.values())
    free = CISPO().token_losses(inputs)
    assert free.metrics["policy/clip_fraction"].tolist() == [[0, 0, 0]]


@pytest.mark.parametrize("wrong", [{"clip_low": 0}, {"clip_low": 1.5}, {"clip_high": INF}, {"clip": 0.2}])
def test_options_are_bounded(wrong) -> None:
    with pytest.raises(ValidationError):
        CISPO(**wrong)
