"""The sum of surrogate and clip against hand-worked numbers, a double loop, and its vanishing gradient."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from loss_checks import INF, assert_padding_is_ignored, cases
from ppokit_losses.surrogate_clip_sum import SurrogateClipSum, surrogate_clip_sum

# log-ratios: inside; beyond the upper end; beyond the lower end
LOG_RATIOS = torch.tensor([[0.1, 0.5, -1.0]])
ADVANTAGES = torch.tensor([[1.0, 2.0, -3.0]])
OLD = torch.tensor([[-1.0, -2.0, -0.5]])


def both(new, old, advantages, clip=0.2):
    new = new.clone().requires_grad_()
    loss = surrogate_clip_sum(new, old, advantages, clip=clip)
    loss.sum().backward()
    assert new.grad is not None
    return loss.detach(), new.grad


def test_by_hand() -> None:
    # -1 * -.9 + .1 * 1;  -2 * -1.5 + .2 * 2;  3 * -1.5 + -.2 * -3
    loss, _ = both(OLD + LOG_RATIOS, OLD, ADVANTAGES)
    torch.testing.assert_close(loss, torch.tensor([[1.0, 3.4, -3.9]]))


def test_the_gradient_is_exactly_zero_inside_and_minus_the_advantage_beyond() -> None:
    _, slope = both(OLD + LOG_RATIOS, OLD, ADVANTAGES)
    assert slope.tolist() == [[0.0, -2.0, 3.0]]
    _, slope = both(OLD + LOG_RATIOS, OLD, -ADVANTAGES)
    assert slope.tolist() == [[0.0, 2.0, -3.0]]


def test_where_an_update_begins_there_is_no_gradient() -> None:
    old, advantages = torch.randn(2, 4, 5)
    _, slope = both(old, old, advantages)
    assert slope.abs().max().item() == 0.0


def test_inside_the_range_the_loss_is_a_constant_of_the_old_policy() -> None:
    """-A log p + (log p - log p_old) A = -A log p_old, whatever log p is."""
    for step in (-0.15, 0.0, 0.15):
        loss, _ = both(OLD + step, OLD, ADVANTAGES)
        torch.testing.assert_close(loss, -ADVANTAGES * OLD)


@given(case=cases(3), clip=st.floats(0.01, 3))
@settings(deadline=None)
def test_equals_the_definition(case, clip) -> None:
    (new, old, advantages), _ = case
    expected, slope = torch.zeros_like(new), torch.zeros_like(new)
    for b in range(new.shape[0]):
        for t in range(new.shape[1]):
            n, o, a = new[b, t].item(), old[b, t].item(), advantages[b, t].item()
            expected[b, t] = -a * n + max(-clip, min(clip, n - o)) * a
            slope[b, t] = 0 if abs(n - o) <= clip else -a
    for got, wanted in zip(both(new, old, advantages, clip), (expected, slope), strict=True):
        torch.testing.assert_close(got, wanted)


def test_gradcheck_away_from_kinks() -> None:
    old, advantages = OLD.double(), ADVANTAGES.double()

    def loss(new):
        return surrogate_clip_sum(new, old, advantages, clip=0.2)

    assert torch.autograd.gradcheck(loss, ((old + LOG_RATIOS.double()).requires_grad_(),))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("log_ratio", [50.0, -50.0, 500.0, -500.0])
def test_far_policies_stay_finite(log_ratio, dtype) -> None:
    new = torch.tensor([[log_ratio]], dtype=dtype)
    loss, slope = both(new, torch.zeros_like(new), torch.ones(1, 1))
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(-log_ratio + (0.2 if log_ratio > 0 else -0.2))
    assert slope.item() == -1.0


def test_bfloat16_is_computed_in_float32() -> None:
    new = torch.tensor([[-0.3]], dtype=torch.bfloat16)  # -.30078125
    advantages = torch.tensor([[0.7]], dtype=torch.bfloat16)  # .69921875
    loss, _ = both(new, torch.zeros_like(new), advantages, clip=0.25)
    assert loss.item() == pytest.approx(0.69921875 * 0.05078125, rel=1e-6)


@given(case=cases(3))
@settings(deadline=None)
def test_what_stands_on_padding_reaches_no_real_token(case) -> None:
    assert_padding_is_ignored(partial(surrogate_clip_sum, clip=0.2), case)


def test_component_and_metrics(make_inputs) -> None:
    new = (OLD + LOG_RATIOS).requires_grad_()
    inputs = make_inputs(new_logprobs=new, old_logprobs=OLD, advantages=ADVANTAGES)
    output = SurrogateClipSum().token_losses(inputs)
    torch.testing.assert_close(output.token_losses.detach(), torch.tensor([[1.0, 3.4, -3.9]]))
    assert output.token_losses.requires_grad
    assert output.metrics["policy/clip_fraction"].tolist() == [[0, 1, 1]]
    wider_clip = SurrogateClipSum(clip=0.7).token_losses(inputs)
    assert wider_clip.metrics["policy/clip_fraction"].tolist() == [[0, 0, 1]]
    # -2 * -1.5 + .5 * 2;  3 * -1.5 + -.7 * -3
    torch.testing.assert_close(wider_clip.token_losses.detach(), torch.tensor([[1.0, 4.0, -2.4]]))


@pytest.mark.parametrize("wrong", [{"clip": 0}, {"clip": INF}, {"clip_low": 0.2}])
def test_options_are_bounded(wrong) -> None:
    with pytest.raises(ValidationError):
        SurrogateClipSum(**wrong)
