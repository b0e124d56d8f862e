"""ReMax: by hand, and what it asks the core for."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings

from estimator_checks import given as given_rewards
from estimator_checks import token_cases
from ppokit_advantages.remax import ReMax, ppokit_advantage_estimators, remax


def test_by_hand() -> None:
    result = remax(torch.tensor([6.0, 3, -1]), torch.tensor([4.0, 4, 0.5]))
    assert result.tolist() == [2, -1, -1.5]


def test_a_response_as_good_as_the_greedy_one_gives_0() -> None:
    rewards = torch.randn(9)
    assert remax(rewards, rewards).tolist() == [0] * 9


def test_narrow_rewards_are_widened() -> None:
    result = remax(torch.tensor([1.0], dtype=torch.bfloat16), torch.tensor([0.001]))
    assert result.dtype == torch.float32
    assert abs(result.item() - 0.999) < 1e-6


def test_the_component_takes_the_whole_reward_and_gives_it_to_each_token(make_rollout) -> None:
    mask = torch.tensor([[True, True, False], [True, False, True]])
    rollout, rewards = given_rewards(
        make_rollout(["a"] * 2, mask=mask), torch.tensor([[1.0, 5, 90], [2, 90, 1]])
    )
    rewards = replace(rewards, greedy_returns=torch.tensor([2.0, 7.0]))
    result = ReMax().estimate(rollout, rewards)
    assert result.advantages.tolist() == [[4, 4, 0], [-4, 0, -4]]
    assert result.returns is None


@given(case=token_cases())
@settings(deadline=None)
def test_against_a_loop_whatever_stands_on_padding(make_rollout, case) -> None:
    token_rewards, values, mask = case
    greedy = values.nan_to_num()[:, 0]
    rollout, rewards = given_rewards(make_rollout(["a"] * len(mask), mask=mask), token_rewards)
    result = ReMax().estimate(rollout, replace(rewards, greedy_returns=greedy))
    for b in range(mask.shape[0]):
        real = [t for t in range(mask.shape[1]) if mask[b, t]]
        whole = sum(token_rewards[b, t].item() for t in real) - greedy[b].item()
        for t in range(mask.shape[1]):
            expected = pytest.approx(whole, abs=1e-9) if t in real else 0
            assert result.advantages[b, t].item() == expected


def test_it_asks_for_greedy_responses() -> None:
    (component,) = ppokit_advantage_estimators()
    assert component.needs == {"greedy"}
