"""Rewards less the mean of the predictions: by hand, a loop, and padding."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings

from estimator_checks import given as given_rewards
from estimator_checks import spoiled, token_cases
from ppokit_advantages.mean_baseline import (
    MeanBaseline,
    mean_baseline,
    ppokit_advantage_estimators,
)

MASK = torch.tensor([[True, True, False], [True, False, True]])
REWARDS = torch.tensor([[1.0, 3, 90], [2, 90, 6]])
VALUES = torch.tensor([[1.0, 2, 90], [4, 90, 5]])


def test_by_hand() -> None:
    """The values' mean is 3, the rewards to go are 4, 3 and 8, 6."""
    advantages, returns = mean_baseline(REWARDS, VALUES, MASK)
    assert advantages.tolist() == [[1, 0, 0], [5, 0, 3]]
    assert returns.tolist() == [[4, 3, 0], [8, 0, 6]]


@given(case=token_cases())
@settings(deadline=None)
def test_against_a_loop(case) -> None:
    rewards, values, mask = case
    advantages, returns = mean_baseline(rewards, values, mask)
    positions = mask.nonzero().tolist()
    mean = sum(values[b, t].item() for b, t in positions) / max(1, len(positions))
    for b in range(mask.shape[0]):
        for t in range(mask.shape[1]):
            if not mask[b, t]:
                assert advantages[b, t] == returns[b, t] == 0
                continue
            rest = sum(rewards[b, s].item() for s in range(t, mask.shape[1]) if mask[b, s])
            assert returns[b, t].item() == pytest.approx(rest, abs=1e-9)
            assert advantages[b, t].item() == pytest.approx(rest - mean, abs=1e-9)


@given(case=token_cases())
@settings(deadline=None)
def test_padding_changes_nothing(case) -> None:
    rewards, values, mask = case
    result = mean_baseline(rewards, values, mask)
    spoilt = mean_baseline(spoiled(rewards, mask, 1e30), spoiled(values, mask, float("inf")), mask)
    torch.testing.assert_close(spoilt, result)


def test_narrow_numbers_are_widened() -> None:
    result = mean_baseline(REWARDS.bfloat16(), VALUES.bfloat16(), MASK)
    assert [x.dtype for x in result] == [torch.float32] * 2
    torch.testing.assert_close(result, mean_baseline(REWARDS, VALUES, MASK))


def test_the_component(make_rollout) -> None:
    rollout, rewards = given_rewards(make_rollout(["a"] * 2, mask=MASK, values=VALUES), REWARDS)
    result = MeanBaseline().estimate(rollout, rewards)
    assert result.advantages.tolist() == [[1, 0, 0], [5, 0, 3]]
    assert result.returns is not None
    assert result.returns.tolist() == [[4, 3, 0], [8, 0, 6]]
    (component,) = ppokit_advantage_estimators()
    assert component.needs == {"values"}
