"""RLOO: reference numbers, a loop, identities, and who is refused."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from estimator_checks import given as given_rewards
from estimator_checks import grouped_cases
from ppokit.plugin.protocols import CheckContext
from ppokit_advantages.group_relative import group_relative
from ppokit_advantages.leave_one_out import (
    LeaveOneOut,
    leave_one_out,
    ppokit_advantage_estimators,
)


def test_reference() -> None:
    """Groups [6, 3], [9, 12] and [1]."""
    result = leave_one_out(torch.tensor([6.0, 9, 3, 12, 1]), torch.tensor([5, 2, 5, 2, 8]))
    assert result.tolist() == [3, -3, -3, 3, 0]


@given(case=grouped_cases())
@settings(deadline=None)
def test_against_a_loop(case) -> None:
    rewards, group_ids = case
    expected = []
    for i, (reward, group) in enumerate(zip(rewards.tolist(), group_ids.tolist(), strict=True)):
        others = [r for j, r in enumerate(rewards.tolist()) if group_ids[j] == group and j != i]
        expected.append(reward - sum(others) / len(others) if others else 0.0)
    assert leave_one_out(rewards, group_ids).tolist() == pytest.approx(expected, rel=1e-9, abs=1e-9)


@given(case=grouped_cases())
@settings(deadline=None)
def test_it_is_dr_grpo_times_n_over_n_minus_1(case) -> None:
    rewards, group_ids = case
    sizes = torch.tensor([int((group_ids == group).sum()) for group in group_ids])
    expected = group_relative(rewards, group_ids, normalise=False) * sizes / (sizes - 1).clamp(min=1)
    torch.testing.assert_close(leave_one_out(rewards, group_ids), expected, atol=1e-6, rtol=1e-6)


@given(case=grouped_cases(), seed=st.integers(0, 2**31))
@settings(deadline=None)
def test_a_permuted_batch_permutes_the_result(case, seed) -> None:
    rewards, group_ids = case
    order = torch.randperm(len(rewards), generator=torch.Generator().manual_seed(seed))
    torch.testing.assert_close(
        leave_one_out(rewards[order], group_ids[order]), leave_one_out(rewards, group_ids)[order]
    )


def test_narrow_rewards_are_widened() -> None:
    rewards = torch.tensor([300.0, 1, 1], dtype=torch.bfloat16)
    result = leave_one_out(rewards, torch.zeros(3, dtype=torch.long))
    assert result.dtype == torch.float32
    assert result.tolist() == [299, -149.5, -149.5]


def test_the_component_takes_the_whole_reward_and_gives_it_to_each_token(make_rollout) -> None:
    mask = torch.tensor([[True, True, False], [True, False, True]])
    rollout, rewards = given_rewards(
        make_rollout(["a"] * 2, mask=mask), torch.tensor([[1.0, 5, 90], [2, 90, 1]]), 4, 4
    )
    result = LeaveOneOut().estimate(rollout, rewards)
    assert result.advantages.tolist() == [[3, 3, 0], [-3, 0, -3]]
    assert result.returns is None


def test_one_response_per_prompt_is_refused() -> None:
    (component,) = ppokit_advantage_estimators()
    assert component.check is not None
    context = CheckContext(columns=None, responses_per_prompt=1)
    (message,) = component.check(LeaveOneOut(), context)
    assert "expected 2 or more" in message
    assert list(component.check(LeaveOneOut(), replace(context, responses_per_prompt=4))) == []
