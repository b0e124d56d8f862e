"""ReMax: by hand, and what it asks the core for."""

from __future__ import annotations

from dataclasses import replace

import torch

from estimator_checks import given as given_rewards
from ppokit_advantages.remax import ReMax, ReMaxOptions, ppokit_advantage_estimators, remax


def test_by_hand() -> None:
    found = remax(torch.tensor([6.0, 3, -1]), torch.tensor([4.0, 4, 0.5]))
    assert found.tolist() == [2, -1, -1.5]


def test_a_response_as_good_as_the_greedy_one_gives_0() -> None:
    rewards = torch.randn(9)
    assert remax(rewards, rewards).tolist() == [0] * 9


def test_narrow_rewards_are_widened() -> None:
    found = remax(torch.tensor([1.0], dtype=torch.bfloat16), torch.tensor([0.001]))
    assert found.dtype == torch.float32
    assert abs(found.item() - 0.999) < 1e-6


def test_the_component_takes_the_whole_reward_and_gives_it_to_each_token(context, make_rollout) -> None:
    mask = torch.tensor([[True, True, False], [True, False, True]])
    rollout, rewards = given_rewards(
        make_rollout(["a"] * 2, mask=mask), torch.tensor([[1.0, 5, 90], [2, 90, 1]])
    )
    rewards = replace(rewards, greedy_returns=torch.tensor([2.0, 7.0]))
    found = ReMax(ReMaxOptions(), context).estimate(rollout, rewards)
    assert found.advantages.tolist() == [[4, 4, 0], [-4, 0, -4]]
    assert found.returns is None


def test_it_asks_for_greedy_responses() -> None:
    (component,) = ppokit_advantage_estimators()
    assert component.needs == {"greedy"}
