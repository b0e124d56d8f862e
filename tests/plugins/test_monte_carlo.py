"""Rewards to go: by hand, a double loop, identities, and long responses that stay finite."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from estimator_checks import given as given_rewards
from estimator_checks import spoiled, token_cases
from ppokit_advantages.gae import gae
from ppokit_advantages.monte_carlo import MonteCarlo, monte_carlo

UNIT = st.floats(0, 1)


def by_definition(rewards, mask, gamma):
    """G_t as a sum over the real tokens from t on; distances count real tokens."""
    out = torch.zeros_like(rewards)
    for b in range(mask.shape[0]):
        steps = [t for t in range(mask.shape[1]) if mask[b, t]]
        for i, t in enumerate(steps):
            out[b, t] = sum(gamma ** (j - i) * rewards[b, steps[j]].item() for j in range(i, len(steps)))
    return out


def test_by_hand() -> None:
    """1 + .5 (2 + .5 * 4) = 3, 2 + .5 * 4 = 4 and 4; the gap is no step."""
    mask = torch.tensor([[True, False, True, True]])
    result = monte_carlo(torch.tensor([[1.0, 9, 2, 4]]), mask, gamma=0.5)
    assert result.tolist() == [[3, 0, 4, 4]]


@given(case=token_cases(), gamma=UNIT)
@settings(deadline=None)
def test_against_a_double_loop(case, gamma) -> None:
    rewards, _, mask = case
    torch.testing.assert_close(
        monte_carlo(rewards, mask, gamma=gamma), by_definition(rewards, mask, gamma), atol=1e-9, rtol=1e-9
    )


@given(case=token_cases(), gamma=UNIT)
@settings(deadline=None)
def test_it_is_gae_at_lam_1_without_a_critic(case, gamma) -> None:
    rewards, _, mask = case
    expected, _ = gae(rewards, torch.zeros_like(rewards), mask, gamma=gamma, lam=1.0)
    torch.testing.assert_close(monte_carlo(rewards, mask, gamma=gamma), expected, atol=1e-9, rtol=1e-9)


@given(case=token_cases(), gamma=UNIT, extra=st.integers(1, 4))
@settings(deadline=None)
def test_padding_changes_nothing(case, gamma, extra) -> None:
    rewards, _, mask = case
    result = monte_carlo(rewards, mask, gamma=gamma)
    padded = torch.cat([rewards, rewards.new_full((len(rewards), extra), 7.0)], dim=1)
    wide_mask = torch.cat([mask, mask.new_zeros(len(mask), extra)], dim=1)
    torch.testing.assert_close(monte_carlo(padded, wide_mask, gamma=gamma)[:, : mask.shape[1]], result)
    for value in (float("inf"), 1e30):
        assert torch.equal(monte_carlo(spoiled(rewards, mask, value), mask, gamma=gamma), result)
    assert result[~mask].abs().sum() == 0


def test_a_long_response_stays_finite() -> None:
    """gamma**-2000 would not be."""
    rewards = torch.ones(1, 2000)
    result = monte_carlo(rewards, torch.ones(1, 2000, dtype=torch.bool), gamma=0.5)
    assert result[0, 0] == pytest.approx(2.0)
    assert result[0, -1] == 1


def test_narrow_rewards_are_widened() -> None:
    result = monte_carlo(
        torch.full((1, 300), 1.0, dtype=torch.bfloat16), torch.ones(1, 300).bool(), gamma=1.0
    )
    assert result.dtype == torch.float32
    assert result[0, 0] == 300


def test_the_component(make_rollout) -> None:
    mask = torch.tensor([[True, True, False]])
    rollout, rewards = given_rewards(make_rollout(["a"], mask=mask), torch.tensor([[1.0, 4, 90]]))
    result = MonteCarlo(gamma=0.5).estimate(rollout, rewards)
    assert result.advantages.tolist() == [[3, 4, 0]]
    assert result.returns is None


@pytest.mark.parametrize("wrong", [{"gamma": -0.1}, {"gamma": 1.1}, {"lam": 1}])
def test_options(wrong) -> None:
    with pytest.raises(ValidationError):
        MonteCarlo(**wrong)
