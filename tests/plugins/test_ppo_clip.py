"""PPO's clipped loss against the reference numbers, a double loop, its gradient and its identities."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from loss_checks import assert_padding_is_ignored, cases
from ppokit.plugin.masked import masked_mean
from ppokit_losses.ppo_clip import PPOClip, ppo_clip

FAR = [50.0, -50.0, 500.0, -500.0]


def loss_of(ratios, advantages, *, low=0.2, high=0.2, dual=None):
    ratios, advantages = torch.tensor([ratios]), torch.tensor([advantages])
    old = torch.full_like(ratios, -1.0)
    return ppo_clip(old + ratios.log(), old, advantages, clip_low=low, clip_high=high, dual_clip=dual)


def by_definition(new, old, advantages, low, high, dual):
    expected = torch.zeros_like(new)
    for b in range(new.shape[0]):
        for t in range(new.shape[1]):
            ratio, a = math.exp(min(new[b, t] - old[b, t], 60)), advantages[b, t].item()
            gain = min(ratio * a, min(max(ratio, 1 - low), 1 + high) * a)
            if dual is not None and a < 0:
                gain = max(gain, dual * a)
            expected[b, t] = -gain
    return expected


def test_reference_numbers() -> None:
    loss = loss_of([0.5, 1.0, 1.5], [1.0, -1.0, 2.0])
    torch.testing.assert_close(loss, torch.tensor([[-0.5, 1.0, -2.4]]))
    assert loss.mean().item() == pytest.approx(-0.63333, abs=1e-5)


def test_reference_numbers_of_the_dual_clip() -> None:
    loss = loss_of([0.5, 1.0, 10.0], [1.0, -1.0, -4.0], dual=3.0)
    assert loss.mean().item() == pytest.approx(4.16667, abs=1e-5)
    assert loss_of([10.0], [-4.0])[0, 0].item() == pytest.approx(40, rel=1e-5)  # without it


def test_the_dual_clip_leaves_positive_advantages_alone() -> None:
    torch.testing.assert_close(loss_of([0.5, 10.0], [1.0, 4.0], dual=3.0), loss_of([0.5, 10.0], [1.0, 4.0]))


def test_the_two_bounds_are_separate() -> None:
    loss = loss_of([0.5, 1.5], [-1.0, 1.0], low=0.1, high=0.3)
    torch.testing.assert_close(loss, torch.tensor([[0.9, -1.3]]))


@given(
    shape=st.tuples(st.integers(1, 4), st.integers(1, 6)),
    seed=st.integers(0, 2**31),
    scale=st.sampled_from([0.01, 0.3, 3.0, 25.0]),
    low=st.floats(0.01, 1),
    high=st.floats(0.01, 2),
    dual=st.none() | st.floats(1.01, 10),
)
@settings(deadline=None)
def test_equals_the_definition(shape, seed, scale, low, high, dual) -> None:
    generator = torch.Generator().manual_seed(seed)
    new, old, advantages = torch.randn(3, *shape, generator=generator, dtype=torch.float64)
    new, old = new * scale, old * scale
    got = ppo_clip(new, old, advantages, clip_low=low, clip_high=high, dual_clip=dual)
    torch.testing.assert_close(got, by_definition(new, old, advantages, low, high, dual))


def gradient(log_ratio: float, advantage: float, dual: float | None = None) -> tuple[float, float]:
    new = torch.tensor([[log_ratio - 1]], requires_grad=True)
    old, advantages = torch.full((1, 1), -1.0), torch.full((1, 1), advantage)
    loss = ppo_clip(new, old, advantages, clip_low=0.2, clip_high=0.2, dual_clip=dual)
    loss.sum().backward()
    assert new.grad is not None
    return loss.item(), new.grad.item()


def test_gradient_is_minus_ratio_times_advantage_inside_and_zero_where_the_clip_stops_it() -> None:
    inside = math.log(1.1)
    assert gradient(inside, 2.0)[1] == pytest.approx(-2.2, rel=1e-5)
    assert gradient(inside, -2.0)[1] == pytest.approx(2.2, rel=1e-5)
    assert gradient(math.log(1.5), 1.0)[1] == 0.0  # good, and far enough already
    assert gradient(math.log(0.5), -1.0)[1] == 0.0  # bad, and far enough already
    assert gradient(math.log(1.5), -1.0)[1] == pytest.approx(1.5, rel=1e-5)  # the wrong way: pulled back
    assert gradient(math.log(0.5), 1.0)[1] == pytest.approx(-0.5, rel=1e-5)
    assert gradient(math.log(4.0), -1.0, dual=3.0)[1] == 0.0
    assert gradient(math.log(2.0), -1.0, dual=3.0)[1] == pytest.approx(2.0, rel=1e-5)


@pytest.mark.parametrize("dual", [None, 3.0])
def test_gradcheck_away_from_kinks(dual) -> None:
    log_ratios = torch.tensor([[-2.0, -0.1, 0.1, 0.5], [-0.5, 0.05, 0.7, 2.0]], dtype=torch.float64)
    advantages = torch.tensor([[1.0, 2.0, -1.0, 1.0], [-1.0, -2.0, -3.0, -1.0]], dtype=torch.float64)
    old = torch.full_like(log_ratios, -1.0)

    def loss(new):
        return ppo_clip(new, old, advantages, clip_low=0.2, clip_high=0.28, dual_clip=dual)

    assert torch.autograd.gradcheck(loss, ((old + log_ratios).requires_grad_(),))


@pytest.mark.parametrize("advantage", [1.0, -1.0, 0.0])
@pytest.mark.parametrize("log_ratio", FAR)
def test_far_policies_stay_finite_and_are_pulled_the_right_way(log_ratio, advantage) -> None:
    loss, slope = gradient(log_ratio, advantage)
    assert math.isfinite(loss)
    assert math.isfinite(slope)
    if log_ratio > 0 > advantage:  # bad, and far more likely than it was: the loss must push it down
        assert slope > 1e20
        expected = math.exp(min(log_ratio, 60))
        assert loss == pytest.approx(expected, rel=1e-4)
    else:
        assert slope == pytest.approx(-advantage * math.exp(min(log_ratio, 0)) * (log_ratio < 0), abs=1e-20)


def test_ratio_1_gives_minus_the_mean_of_the_advantages() -> None:
    advantages = torch.tensor([[1.0, -2.0, 5.0], [4.0, 7.0, 7.0]])
    mask = torch.tensor([[True, True, True], [True, False, False]])
    same = torch.randn(2, 3)
    loss = ppo_clip(same, same, advantages, clip_low=0.2, clip_high=0.2)
    assert masked_mean(loss, mask).item() == -masked_mean(advantages, mask).item() == -2.0


def test_each_token_stands_alone() -> None:
    """So padding changes nothing, and a permuted batch permutes its losses."""
    new, old, advantages = torch.randn(3, 4, 5)
    loss = ppo_clip(new, old, advantages, clip_low=0.2, clip_high=0.2)
    padded = [torch.nn.functional.pad(x, (0, 3), value=math.nan) for x in (new, old, advantages)]
    torch.testing.assert_close(ppo_clip(*padded, clip_low=0.2, clip_high=0.2)[:, :5], loss)
    order = [2, 0, 3, 1]
    permuted = ppo_clip(new[order], old[order], advantages[order], clip_low=0.2, clip_high=0.2)
    torch.testing.assert_close(permuted, loss[order])


@given(case=cases(3))
@settings(deadline=None)
def test_what_stands_on_padding_reaches_no_real_token(case) -> None:
    assert_padding_is_ignored(partial(ppo_clip, clip_low=0.2, clip_high=0.3, dual_clip=3.0), case)


def test_bfloat16_is_computed_in_float32() -> None:
    """exp(1/128) in bfloat16 would be 1.0078125 and not 1.00784..."""
    new, old = (torch.tensor([[x]], dtype=torch.bfloat16) for x in (0.0078125, 0.0))
    loss = ppo_clip(new, old, torch.ones(1, 1), clip_low=0.2, clip_high=0.2)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(-math.exp(0.0078125), abs=1e-7)


def test_metrics(make_inputs) -> None:
    ratios = torch.tensor([[1.5, 1.5, 0.5, 0.5, 1.0, 5.0]])
    advantages = torch.tensor([[1.0, -1.0, 1.0, -1.0, 1.0, -1.0]])
    new = ratios.log().requires_grad_()
    inputs = make_inputs(new_logprobs=new, old_logprobs=torch.zeros(1, 6), advantages=advantages)
    output = PPOClip(dual_clip=3.0).token_losses(inputs)
    assert output.token_losses.requires_grad
    metrics = output.metrics
    assert not any(metric.requires_grad for metric in metrics.values())
    assert metrics["policy/clip_fraction"].tolist() == [[1, 0, 0, 1, 0, 0]]
    assert metrics["policy/dual_clip_fraction"].tolist() == [[0, 0, 0, 0, 0, 1]]
    torch.testing.assert_close(metrics["policy/ratio"], ratios)


def test_component_uses_its_options(make_inputs) -> None:
    inputs = make_inputs(
        new_logprobs=torch.tensor([[0.5, 1.5, 10.0]]).log(),
        old_logprobs=torch.zeros(1, 3),
        advantages=torch.tensor([[-1.0, 1.0, -1.0]]),
    )
    loss = PPOClip(clip_low=0.1, clip_high=0.3, dual_clip=4.0)
    torch.testing.assert_close(loss.token_losses(inputs).token_losses, torch.tensor([[0.9, -1.3, 4.0]]))
    assert "policy/dual_clip_fraction" not in PPOClip().token_losses(inputs).metrics


@pytest.mark.parametrize(
    "wrong", [{"clip_low": 0}, {"clip_low": 1.5}, {"clip_high": math.inf}, {"dual_clip": 1}, {"clip": 0.2}]
)
def test_options_are_bounded(wrong) -> None:
    with pytest.raises(ValidationError):
        PPOClip(**wrong)
