"""GSPO's loss against hand-worked numbers, a double loop, the paper's gradient and GSPO-token."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from pydantic import ValidationError

from loss_checks import INF, NAN, assert_padding_is_ignored, cases
from ppokit.training.aggregation import token_weights
from ppokit_losses.gspo import GSPO, gspo

RATIOS = torch.tensor([[0.5, 1.0, 1.5]])
ADVANTAGES = torch.tensor([[1.0, -1.0, 2.0]])
ALL = torch.ones(1, 3, dtype=torch.bool)
MEAN = 0.75 ** (1 / 3)  # .90856, the geometric mean of the ratios


def loss_of(ratios, advantages, mask, *, low=0.2, high=0.2):
    old = torch.full_like(ratios, -1.0)
    return gspo(old + ratios.log(), old, advantages, mask, clip_low=low, clip_high=high)


def by_definition(new, old, advantages, mask, low, high):
    expected = torch.zeros_like(new)
    for b in range(new.shape[0]):
        real = [t for t in range(new.shape[1]) if mask[b, t]]
        if not real:
            continue
        s = math.exp(min(sum((new[b, t] - old[b, t]).item() for t in real) / len(real), 60))
        for t in real:
            a = advantages[b, t].item()
            expected[b, t] = -min(s * a, min(max(s, 1 - low), 1 + high) * a)
    return expected


def test_reference_numbers() -> None:
    loss = loss_of(RATIOS, ADVANTAGES, ALL)
    torch.testing.assert_close(loss, -MEAN * ADVANTAGES)
    assert loss.mean().item() == pytest.approx(-0.60571, abs=1e-5)


def test_the_papers_bounds_by_hand() -> None:
    # s = .90856 < 1 - 3e-4: only the token of negative advantage is clipped, to .9997
    loss = loss_of(RATIOS, ADVANTAGES, ALL, low=3e-4, high=4e-4)
    torch.testing.assert_close(loss, torch.tensor([[-MEAN, 0.9997, -2 * MEAN]]))
    # s = 2^(2/3) = 1.5874 > 1 + 4e-4: only positive advantages are clipped, to 1.0004
    loss = loss_of(torch.tensor([[4.0, 1.0, 1.0]]), ADVANTAGES, ALL, low=3e-4, high=4e-4)
    torch.testing.assert_close(loss, torch.tensor([[-1.0004, 2 ** (2 / 3), -2.0008]]))


def test_the_ratio_is_of_the_real_tokens_alone_gaps_included() -> None:
    ratios = torch.tensor([[0.5, 9.0, 1.0, 9.0, 1.5]])
    mask = torch.tensor([[True, False, True, False, True]])
    loss = loss_of(ratios, torch.ones(1, 5), mask)
    torch.testing.assert_close(loss, torch.tensor([[-MEAN, 0.0, -MEAN, 0.0, -MEAN]]))


@given(case=cases(3))
@settings(deadline=None)
def test_equals_the_definition(case) -> None:
    (new, old, advantages), mask = case
    got = gspo(new, old, advantages, mask, clip_low=0.2, clip_high=0.3)
    torch.testing.assert_close(got, by_definition(new, old, advantages, mask, 0.2, 0.3))


@given(case=cases(3))
@settings(deadline=None)
def test_what_stands_on_padding_reaches_neither_the_loss_nor_the_gradient(case) -> None:
    def loss(new, old, advantages):
        return gspo(new, old, advantages, case[1], clip_low=0.2, clip_high=0.3)

    assert_padding_is_ignored(loss, case, (NAN, INF, -INF))


def test_a_single_token_is_ppos_clip() -> None:
    one = torch.ones(1, 1, dtype=torch.bool)
    assert loss_of(torch.tensor([[1.5]]), torch.ones(1, 1), one).item() == pytest.approx(-1.2)
    assert loss_of(torch.tensor([[1.5]]), -torch.ones(1, 1), one).item() == pytest.approx(1.5)


def test_ratio_1_gives_minus_the_advantages() -> None:
    same = torch.randn(1, 3)
    loss = gspo(same, same, ADVANTAGES, ALL, clip_low=3e-4, clip_high=4e-4)
    assert loss.tolist() == (-ADVANTAGES).tolist()


def gradient(new, old, advantages, mask, *, low=0.2, high=0.2):
    new = new.clone().requires_grad_()
    weights = token_weights(mask, "sequence_mean_token_mean", 8)
    loss = (gspo(new, old, advantages, mask, clip_low=low, clip_high=high) * weights).sum()
    loss.backward()
    return loss.item(), new.grad


def test_the_papers_objective_and_gradient() -> None:
    """With the mean over a sequence's tokens, then over sequences: mean of -min(s A, clip(s) A), and, inside,
    d / d log p = -(1/B) s A / tokens on each token."""
    mask = torch.tensor([[True, True, True, False], [True, True, False, False]])
    old = torch.full((2, 4), -1.0)
    new = old + torch.tensor([[0.1, -0.1, 0.15, 9.0], [-0.1, 0.04, 9.0, 9.0]])
    s = [math.exp(0.05), math.exp(-0.03)]
    advantages = torch.tensor([[2.0], [-3.0]]).expand(2, 4)
    loss, slope = gradient(new, old, advantages, mask)
    assert loss == pytest.approx(-(2 * s[0] - 3 * s[1]) / 2, rel=1e-5)
    expected = torch.tensor([[-s[0] * 2 / 3] * 3 + [0], [s[1] * 3 / 2] * 2 + [0, 0]]) / 2
    torch.testing.assert_close(slope, expected)


@given(case=cases(2))
@settings(deadline=None)
def test_one_advantage_a_sequence_gives_the_gradient_of_gspo_token(case) -> None:
    """GSPO-token, eq. 13 and 14: s_t = sg(s) * p_t / sg(p_t) in place of s."""
    (new, old), mask = case
    advantages = torch.randn(len(new), 1, dtype=torch.float64).expand_as(new)
    weights = token_weights(mask, "sequence_mean_token_mean", 8).double()

    leaf = new.clone().requires_grad_()
    lengths = mask.sum(1, keepdim=True).clamp(min=1)
    s = ((leaf - old) * mask).sum(1, keepdim=True).div(lengths).clamp(max=60).exp().detach()
    s_token = s * (leaf - leaf.detach()).exp()
    gain = (s_token * advantages).minimum(s_token.clamp(0.8, 1.2) * advantages)
    (-gain * mask * weights).sum().backward()

    ours = new.clone().requires_grad_()
    (gspo(ours, old, advantages, mask, clip_low=0.2, clip_high=0.2) * weights).sum().backward()
    torch.testing.assert_close(ours.grad, leaf.grad)


def test_advantages_that_vary_push_each_token_by_their_mean() -> None:
    """Where it differs from GSPO-token: there, the gradient would be proportional to each advantage."""
    old = torch.full((1, 3), -1.0)
    _, slope = gradient(old + RATIOS.log(), old, ADVANTAGES, ALL)
    torch.testing.assert_close(slope, torch.full((1, 3), -MEAN * (2 / 3) / 3))


def test_the_gradient_is_exactly_zero_where_the_clip_stops_it() -> None:
    old = torch.full((1, 3), -1.0)
    for ratios, advantage in ((2 * torch.ones(1, 3), 1.0), (0.5 * torch.ones(1, 3), -1.0)):
        _, slope = gradient(old + ratios.log(), old, torch.full((1, 3), advantage), ALL)
        assert slope.tolist() == [[0.0, 0.0, 0.0]]
        _, slope = gradient(old + ratios.log(), old, torch.full((1, 3), -advantage), ALL)
        torch.testing.assert_close(slope, ratios * advantage / 3)  # the wrong way: pulled back


def test_gradcheck_away_from_kinks() -> None:
    mask = torch.tensor([[True, True, True], [True, False, True], [True, True, True]])
    old = torch.full((3, 3), -1.0, dtype=torch.float64)
    advantages = torch.tensor([[1.0, -1.0, 2.0], [-1.0, 3.0, 1.0], [1.0, 2.0, -1.0]], dtype=torch.float64)
    steps = torch.tensor([[0.1, -0.2, 0.15], [0.9, 0.3, 0.5], [-0.9, -0.3, -0.5]], dtype=torch.float64)

    def loss(new):
        return gspo(new, old, advantages, mask, clip_low=0.2, clip_high=0.28)

    assert torch.autograd.gradcheck(loss, ((old + steps).requires_grad_(),))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("advantage", [1.0, -1.0])
@pytest.mark.parametrize("log_ratio", [50.0, -50.0, 500.0, -500.0])
def test_far_policies_stay_finite_and_are_pulled_the_right_way(log_ratio, advantage, dtype) -> None:
    new = torch.full((1, 3), log_ratio, dtype=dtype).requires_grad_()
    loss = gspo(
        new, torch.zeros(1, 3, dtype=dtype), torch.full((1, 3), advantage), ALL, clip_low=0.2, clip_high=0.2
    )
    loss.sum().backward()
    assert loss.dtype == torch.float32
    assert loss.isfinite().all()
    assert new.grad.isfinite().all()
    if log_ratio > 0 > advantage:  # bad, and far more likely than it was: the loss must push it down
        assert loss[0, 0].item() == pytest.approx(math.exp(min(log_ratio, 60)), rel=1e-3)
        assert (new.grad > 1e20).all()


def test_bfloat16_is_averaged_in_float32() -> None:
    new = torch.tensor([[1.0, 2**-9, 0.0]], dtype=torch.bfloat16)  # their sum is not a bfloat16
    loss = gspo(new, torch.zeros_like(new), -torch.ones(1, 3), ALL, clip_low=0.2, clip_high=0.2)
    assert loss[0, 0].item() == pytest.approx(math.exp((1 + 2**-9) / 3), rel=1e-6)


def test_rows_without_tokens_and_permutations() -> None:
    new, old, advantages = torch.randn(3, 4, 5)
    mask = torch.rand(4, 5) < 0.6
    mask[2] = False
    loss = gspo(new, old, advantages, mask, clip_low=0.2, clip_high=0.2)
    assert loss[2].abs().sum().item() == 0
    order = [2, 0, 3, 1]
    permuted = gspo(new[order], old[order], advantages[order], mask[order], clip_low=0.2, clip_high=0.2)
    torch.testing.assert_close(permuted, loss[order])


def test_component_and_metrics(make_inputs) -> None:
    new = torch.cat([RATIOS, RATIOS]).log().requires_grad_()
    mask = torch.tensor([[True, True, True], [True, False, False]])
    inputs = make_inputs(
        new_logprobs=new, old_logprobs=torch.zeros(2, 3), advantages=ADVANTAGES.repeat(2, 1), mask=mask
    )
    output = GSPO().token_losses(inputs)
    expected = torch.tensor([[-MEAN, 0.9997, -2 * MEAN], [-0.5, 0.0, 0.0]])
    torch.testing.assert_close(output.token_losses.detach(), expected)
    assert output.token_losses.requires_grad
    assert not any(metric.requires_grad for metric in output.metrics.values())
    assert output.metrics["policy/clip_fraction"][mask].tolist() == [0, 1, 0, 0]
    torch.testing.assert_close(output.metrics["policy/ratio"][mask], torch.tensor([MEAN] * 3 + [0.5]))
    wider_clip = GSPO(clip_low=0.05, clip_high=0.2).token_losses(inputs).token_losses
    torch.testing.assert_close(wider_clip[0, 1].item(), 0.95)


def test_the_default_bounds_are_the_papers() -> None:
    assert (GSPO().clip_low, GSPO().clip_high) == (3e-4, 4e-4)


@pytest.mark.parametrize("wrong", [{"clip_low": 0}, {"clip_low": 1.5}, {"clip_high": INF}, {"clip": 0.2}])
def test_options_are_bounded(wrong) -> None:
    with pytest.raises(ValidationError):
        GSPO(**wrong)
