"""REINFORCE++: by hand, a loop, the baseline's form, and identities."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from estimator_checks import given as given_rewards
from estimator_checks import spoiled, token_cases
from ppokit.plugin.protocols import CheckContext
from ppokit_advantages.reinforce_plus_plus import (
    ReinforcePlusPlus,
    ppokit_advantage_estimators,
    reinforce_plus_plus,
)

MASK = torch.tensor([[True, True, False], [True, False, True]])
REWARDS = torch.tensor([[1.0, 3, 90], [2, 90, 6]])
GROUPS = torch.tensor([4, 4])


def by_definition(rewards, mask, group_ids, gamma, baseline, epsilon):
    rows = [[rewards[b, t].item() for t in range(mask.shape[1]) if mask[b, t]] for b in range(mask.shape[0])]
    if baseline == "group_mean":
        wholes = [sum(row) for row in rows]
        for b, row in enumerate(rows):
            others = [wholes[j] for j in range(len(rows)) if group_ids[j] == group_ids[b]]
            if row:
                row[-1] -= sum(others) / len(others)
    togo = [
        [sum(gamma ** (j - i) * row[j] for j in range(i, len(row))) for i in range(len(row))] for row in rows
    ]
    flat = [g for row in togo for g in row]
    if not flat:
        return torch.zeros_like(rewards)
    mean = sum(flat) / len(flat)
    deviation = math.sqrt(sum((g - mean) ** 2 for g in flat) / len(flat))
    out = torch.zeros_like(rewards)
    for b, row in enumerate(togo):
        positions = [t for t in range(mask.shape[1]) if mask[b, t]]
        for t, g in zip(positions, row, strict=True):
            out[b, t] = (g - mean) / (deviation + epsilon)
    return out


def test_by_hand() -> None:
    """Returns 4, 3 and 8, 6 have the mean 5.25 and the variance (1.5625 + 5.0625 + 7.5625 + .5625) / 4."""
    result = reinforce_plus_plus(REWARDS, MASK, GROUPS, gamma=1.0, epsilon=0.0)
    deviation = math.sqrt(3.6875)
    expected = [-1.25 / deviation, -2.25 / deviation, 2.75 / deviation, 0.75 / deviation]
    assert result[MASK].tolist() == pytest.approx(expected)
    assert result[~MASK].tolist() == [0, 0]


def test_the_groups_mean_is_taken_off_at_the_last_token() -> None:
    """Whole rewards 4 and 8 have the mean 6: last rewards -3 and 0, returns -2, -3 and 2, 0 of mean -.75."""
    result = reinforce_plus_plus(REWARDS, MASK, GROUPS, gamma=1.0, baseline="group_mean", epsilon=0.0)
    deviation = math.sqrt((1.25**2 + 2.25**2 + 2.75**2 + 0.75**2) / 4)
    expected = [n / deviation for n in (-1.25, -2.25, 2.75, 0.75)]
    assert result[MASK].tolist() == pytest.approx(expected)
    apart = reinforce_plus_plus(
        REWARDS, MASK, torch.tensor([1, 2]), gamma=1.0, baseline="group_mean", epsilon=0.0
    )
    # Alone, each return is less its own: 0, -1 and 0, -2, of mean -.75.
    deviation = math.sqrt((0.75**2 + 0.25**2 + 0.75**2 + 1.25**2) / 4)
    assert apart[MASK].tolist() == pytest.approx([n / deviation for n in (0.75, -0.25, 0.75, -1.25)])


@given(
    case=token_cases(),
    gamma=st.floats(0, 1),
    baseline=st.sampled_from(["none", "group_mean"]),
    epsilon=st.sampled_from([1e-8, 0.5]),
    groups=st.lists(st.integers(0, 1), min_size=4, max_size=4),
)
@settings(deadline=None)
def test_against_a_loop(case, gamma, baseline, epsilon, groups) -> None:
    rewards, _, mask = case
    group_ids = torch.tensor(groups[: len(rewards)])
    result = reinforce_plus_plus(rewards, mask, group_ids, gamma=gamma, baseline=baseline, epsilon=epsilon)
    expected = by_definition(rewards, mask, group_ids, gamma, baseline, epsilon)
    torch.testing.assert_close(result, expected, atol=1e-5, rtol=1e-5)


@given(case=token_cases(), gamma=st.floats(0.1, 1))
@settings(deadline=None)
def test_the_batch_has_mean_0_and_variance_1(case, gamma) -> None:
    rewards, _, mask = case
    result = reinforce_plus_plus(rewards, mask, torch.zeros(len(mask)).long(), gamma=gamma, epsilon=0.0)
    real = result[mask]
    if len(real) > 1 and bool(real.isfinite().all()):
        assert float(real.mean()) == pytest.approx(0, abs=1e-8)
        assert float(real.var(correction=0)) == pytest.approx(1, abs=1e-6)


@given(case=token_cases())
@settings(deadline=None)
def test_padding_changes_nothing(case) -> None:
    rewards, _, mask = case
    groups = torch.zeros(len(mask)).long()
    result = reinforce_plus_plus(rewards, mask, groups, gamma=0.9, baseline="group_mean")
    padded_rewards = torch.cat([rewards, rewards.new_full((len(rewards), 2), 7.0)], dim=1)
    wide_mask = torch.cat([mask, mask.new_zeros(len(mask), 2)], dim=1)
    padded = reinforce_plus_plus(padded_rewards, wide_mask, groups, gamma=0.9, baseline="group_mean")
    torch.testing.assert_close(padded[:, : mask.shape[1]], result)
    clean = reinforce_plus_plus(spoiled(rewards, mask, 1e30), mask, groups, gamma=0.9, baseline="group_mean")
    torch.testing.assert_close(clean, result)


def test_narrow_rewards_are_widened() -> None:
    result = reinforce_plus_plus(REWARDS.bfloat16(), MASK, GROUPS, gamma=1.0)
    assert result.dtype == torch.float32
    torch.testing.assert_close(result, reinforce_plus_plus(REWARDS, MASK, GROUPS, gamma=1.0))


def test_the_component(make_rollout) -> None:
    rollout, rewards = given_rewards(make_rollout(["a"] * 2, mask=MASK), REWARDS, 4, 4)
    for baseline in ("none", "group_mean"):
        options = ReinforcePlusPlus(gamma=0.5, baseline=baseline, epsilon=0.25)
        result = options.estimate(rollout, rewards)
        expected = by_definition(REWARDS, MASK, GROUPS, 0.5, baseline, 0.25)
        torch.testing.assert_close(result.advantages, expected)
        assert result.returns is None


def test_only_the_baseline_needs_a_group() -> None:
    (component,) = ppokit_advantage_estimators()
    assert component.check is not None
    one = CheckContext(columns=None, responses_per_prompt=1)
    assert list(component.check(ReinforcePlusPlus(), one)) == []
    based = ReinforcePlusPlus(baseline="group_mean")
    (message,) = component.check(based, one)
    assert "expected 2 or more" in message
    assert list(component.check(based, replace(one, responses_per_prompt=2))) == []


@pytest.mark.parametrize("wrong", [{"gamma": 1.1}, {"baseline": "batch"}, {"epsilon": -1}])
def test_options(wrong) -> None:
    with pytest.raises(ValidationError):
        ReinforcePlusPlus(**wrong)
