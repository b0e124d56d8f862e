"""GRPO and Dr. GRPO: reference numbers, a loop over groups, identities, and who is refused."""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from estimator_checks import given as given_rewards
from estimator_checks import grouped_cases
from ppokit.plugin.protocols import CheckContext
from ppokit_advantages.group_relative import (
    GroupRelative,
    group_relative,
    ppokit_advantage_estimators,
)

REWARDS, GROUPS = torch.tensor([6.0, 9, 3, 12, 1]), torch.tensor([5, 2, 5, 2, 8])


def test_reference_without_deviation() -> None:
    """Groups [6, 3], [9, 12] and [1]."""
    result = group_relative(REWARDS, GROUPS, normalise=False)
    assert result.tolist() == [1.5, -1.5, -1.5, 1.5, 0]


@pytest.mark.parametrize(("variance", "deviation"), [("sample", math.sqrt(4.5)), ("population", 1.5)])
def test_by_hand_with_deviation(variance, deviation) -> None:
    """Both groups lie 1.5 to each side of their mean."""
    result = group_relative(REWARDS, GROUPS, normalise=True, variance=variance, epsilon=0.5)
    one = 1.5 / (deviation + 0.5)
    assert result.tolist() == pytest.approx([one, -one, -one, one, 0])


def test_a_response_alone_in_its_group() -> None:
    result = group_relative(REWARDS, GROUPS, normalise=True, singleton="keep")
    assert result[4] == 1
    assert group_relative(REWARDS, GROUPS, normalise=True, singleton="zero")[4] == 0


@pytest.mark.parametrize("value", [0.1, -3e5, 1e-30, 0.3333333])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_equal_rewards_give_exactly_0(value, dtype) -> None:
    """Rounding of their mean is not amplified by a deviation of nearly 0."""
    rewards = torch.full((7,), value, dtype=dtype)
    result = group_relative(rewards, torch.zeros(7, dtype=torch.long), normalise=True, epsilon=0.0)
    assert result.tolist() == [0] * 7


@given(
    case=grouped_cases(),
    normalise=st.booleans(),
    variance=st.sampled_from(["sample", "population"]),
    epsilon=st.sampled_from([1e-6, 1e-2]),
    singleton=st.sampled_from(["zero", "keep"]),
)
@settings(deadline=None)
def test_against_a_loop(case, normalise, variance, epsilon, singleton) -> None:
    rewards, group_ids = case
    groups = defaultdict(list)
    for reward, group in zip(rewards.tolist(), group_ids.tolist(), strict=True):
        groups[group].append(reward)
    expected = []
    for reward, group in zip(rewards.tolist(), group_ids.tolist(), strict=True):
        others = groups[group]
        mean = sum(others) / len(others)
        advantage = reward - mean
        if len(others) == 1:
            advantage = reward if singleton == "keep" else 0.0
        elif len(set(others)) == 1:
            advantage = 0.0
        elif normalise:
            count = len(others) - (1 if variance == "sample" else 0)
            advantage /= math.sqrt(sum((r - mean) ** 2 for r in others) / count) + epsilon
        expected.append(advantage)
    result = group_relative(
        rewards, group_ids, normalise=normalise, variance=variance, epsilon=epsilon, singleton=singleton
    )
    assert result.tolist() == pytest.approx(expected, rel=1e-9, abs=1e-9)


@given(case=grouped_cases(), shift=st.floats(-50, 50), scale=st.floats(0.1, 50))
@settings(deadline=None)
def test_shift_and_scale_of_a_group_change_nothing(case, shift, scale) -> None:
    rewards, group_ids = case
    before = group_relative(rewards, group_ids, normalise=True, epsilon=0.0)
    after = group_relative(rewards * scale + shift, group_ids, normalise=True, epsilon=0.0)
    torch.testing.assert_close(after, before, atol=1e-5, rtol=1e-5)


@given(case=grouped_cases(), seed=st.integers(0, 2**31))
@settings(deadline=None)
def test_a_permuted_batch_permutes_the_result(case, seed) -> None:
    rewards, group_ids = case
    order = torch.randperm(len(rewards), generator=torch.Generator().manual_seed(seed))
    result = group_relative(rewards[order], group_ids[order], normalise=True)
    torch.testing.assert_close(result, group_relative(rewards, group_ids, normalise=True)[order])


def test_narrow_rewards_are_widened() -> None:
    result = group_relative(REWARDS.bfloat16(), GROUPS, normalise=True)
    assert result.dtype == torch.float32
    torch.testing.assert_close(result, group_relative(REWARDS, GROUPS, normalise=True))


def test_the_component_takes_the_whole_reward_and_gives_it_to_each_token(make_rollout) -> None:
    """A KL penalty among the token rewards counts; padding neither counts nor gets anything."""
    mask = torch.tensor([[True, True, False], [True, False, True], [True, True, True]])
    token_rewards = torch.tensor([[1.0, 5, 90], [2, 90, 1], [1, 0, 7]])
    rollout, rewards = given_rewards(make_rollout(["a"] * 3, mask=mask), token_rewards, 4, 4, 9)
    result = GroupRelative(normalise=False).estimate(rollout, rewards)
    assert result.advantages.tolist() == [[1.5, 1.5, 0], [-1.5, 0, -1.5], [0, 0, 0]]
    assert result.returns is None
    kept = GroupRelative(singleton="keep").estimate(rollout, rewards)
    assert kept.advantages[2].tolist() == [8, 8, 8]
    options = GroupRelative(variance="population", epsilon=1.5)
    scaled = options.estimate(rollout, rewards)
    assert scaled.advantages[0, 0] == pytest.approx(0.5)


def test_one_response_per_prompt_is_refused() -> None:
    (component,) = ppokit_advantage_estimators()
    assert component.check is not None
    unknown = CheckContext(columns=None)
    (message,) = component.check(GroupRelative(), replace(unknown, responses_per_prompt=1))
    assert "got rollout.responses_per_prompt 1" in message
    assert "expected 2 or more" in message
    assert list(component.check(GroupRelative(), replace(unknown, responses_per_prompt=2))) == []
    assert list(component.check(GroupRelative(), unknown)) == []


@pytest.mark.parametrize(
    "wrong", [{"variance": "biased"}, {"epsilon": -1}, {"singleton": "drop"}, {"std": 1}]
)
def test_options(wrong) -> None:
    with pytest.raises(ValidationError):
        GroupRelative(**wrong)
