"""The reward discounted by place, less the prediction: by hand, a loop, and padding."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from estimator_checks import given as given_rewards
from estimator_checks import spoiled, token_cases
from ppokit_advantages.discounted import (
    Discounted,
    discounted,
    ppokit_advantage_estimators,
)

MASK = torch.tensor([[True, True, False], [True, False, True]])
REWARDS = torch.tensor([[1.0, 3, 90], [2, 90, 6]])
VALUES = torch.tensor([[1.0, 2, 90], [4, 90, 5]])


def test_by_hand() -> None:
    """Whole rewards 4 and 8; the second real token is worth half of the first, the gap is no place."""
    advantages, returns = discounted(REWARDS, VALUES, MASK, gamma=0.5)
    assert returns.tolist() == [[4, 2, 0], [8, 0, 4]]
    assert advantages.tolist() == [[3, 0, 0], [4, 0, -1]]


def test_the_founding_numbers() -> None:
    """rewards * .99**t - predictions for t = 0, 1, 2, a reward of 10 and predictions of 9."""
    mask = torch.ones(1, 3, dtype=torch.bool)
    advantages, _ = discounted(torch.tensor([[0.0, 0, 10]]), torch.full((1, 3), 9.0), mask, gamma=0.99)
    assert advantages[0].tolist() == pytest.approx([1.0, 0.9, 0.801], abs=1e-5)


@given(case=token_cases(), gamma=st.floats(0, 1))
@settings(deadline=None)
def test_against_a_loop(case, gamma) -> None:
    rewards, values, mask = case
    advantages, returns = discounted(rewards, values, mask, gamma=gamma)
    for b in range(mask.shape[0]):
        positions = [t for t in range(mask.shape[1]) if mask[b, t]]
        whole = sum(rewards[b, t].item() for t in positions)
        for t in range(mask.shape[1]):
            if t not in positions:
                assert advantages[b, t] == returns[b, t] == 0
                continue
            expected = gamma ** positions.index(t) * whole
            assert returns[b, t].item() == pytest.approx(expected, abs=1e-9)
            assert advantages[b, t].item() == pytest.approx(expected - values[b, t].item(), abs=1e-9)


@given(case=token_cases())
@settings(deadline=None)
def test_padding_changes_nothing(case) -> None:
    rewards, values, mask = case
    result = discounted(rewards, values, mask, gamma=0.9)
    spoilt = discounted(spoiled(rewards, mask, 1e30), spoiled(values, mask, float("inf")), mask, gamma=0.9)
    torch.testing.assert_close(spoilt, result)


def test_narrow_numbers_are_widened() -> None:
    result = discounted(REWARDS.bfloat16(), VALUES.bfloat16(), MASK, gamma=0.99)
    assert [x.dtype for x in result] == [torch.float32] * 2
    torch.testing.assert_close(result, discounted(REWARDS, VALUES, MASK, gamma=0.99))


def test_the_component(make_rollout) -> None:
    rollout, rewards = given_rewards(make_rollout(["a"] * 2, mask=MASK, values=VALUES), REWARDS)
    result = Discounted(gamma=0.5).estimate(rollout, rewards)
    assert result.advantages.tolist() == [[3, 0, 0], [4, 0, -1]]
    assert result.returns is not None
    assert result.returns.tolist() == [[4, 2, 0], [8, 0, 4]]
    assert Discounted().gamma == 0.99
    (component,) = ppokit_advantage_estimators()
    assert component.needs == {"values"}


@pytest.mark.parametrize("wrong", [{"gamma": -0.1}, {"gamma": 1.1}])
def test_options(wrong) -> None:
    with pytest.raises(ValidationError):
        Discounted(**wrong)
