"""GAE against the reference numbers, a double loop, and its identities."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from ppokit_advantages.gae import GAE, gae

UNIT = st.floats(0, 1)
MASKS = st.integers(1, 9).flatmap(
    lambda r: st.lists(st.lists(st.booleans(), min_size=r, max_size=r), min_size=1, max_size=4)
)


def row(*numbers: float) -> torch.Tensor:
    return torch.tensor([numbers])


def real(*bits: int) -> torch.Tensor:
    return torch.tensor([bits], dtype=torch.bool)


def draw(mask: torch.Tensor, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    rewards, values = torch.randn(2, *mask.shape, generator=generator, dtype=torch.float64)
    return rewards, values


def by_definition(rewards, values, mask, gamma, lam):
    """A_t as the sum of (gamma lam)^k delta_{t+k} over the real tokens alone."""
    advantages, returns = torch.zeros_like(values), torch.zeros_like(values)
    for b in range(mask.shape[0]):
        steps = [t for t in range(mask.shape[1]) if mask[b, t]]
        r = [rewards[b, t].item() for t in steps]
        v = [*(values[b, t].item() for t in steps), 0.0]
        for i, t in enumerate(steps):
            total = sum(
                (gamma * lam) ** (j - i) * (r[j] + gamma * v[j + 1] - v[j]) for j in range(i, len(steps))
            )
            advantages[b, t], returns[b, t] = total, total + v[i]
    return advantages, returns


@pytest.mark.parametrize(
    ("gamma", "lam", "expected"),
    [(1.0, 1.0, [6, 5, 3]), (0.5, 1.0, [2.75, 3.5, 3]), (1.0, 0.5, [3.625, 4.25, 3])],
)
def test_reference_returns(gamma, lam, expected) -> None:
    values = row(0.5, 1.0, 1.5)
    advantages, returns = gae(row(1.0, 2.0, 3.0), values, real(1, 1, 1), gamma=gamma, lam=lam)
    torch.testing.assert_close(returns, row(*map(float, expected)))
    torch.testing.assert_close(advantages, returns - values)


def test_reference_returns_of_a_late_reward() -> None:
    late = row(0.0, 0.0, 0.0, 1.0)
    _, returns = gae(late, late, real(1, 1, 1, 1), gamma=0.9, lam=0.95)
    torch.testing.assert_close(returns, row(0.6579225, 0.7695, 0.9, 1.0))


@given(mask=MASKS, seed=st.integers(0, 2**31), gamma=UNIT, lam=UNIT)
@settings(deadline=None)
def test_equals_the_definition_for_any_mask(mask, seed, gamma, lam) -> None:
    mask = torch.tensor(mask)
    rewards, values = draw(mask, seed)
    expected = by_definition(rewards, values, mask, gamma, lam)
    torch.testing.assert_close(gae(rewards, values, mask, gamma=gamma, lam=lam), expected)


@given(mask=MASKS, seed=st.integers(0, 2**31))
@settings(deadline=None)
def test_padding_and_gaps_change_nothing(mask, seed) -> None:
    mask = torch.tensor(mask)
    rewards, values = draw(mask, seed)
    clean = gae(rewards, values, mask, gamma=0.9, lam=0.8)
    rubbish = gae(
        rewards.masked_fill(~mask, math.nan), values.masked_fill(~mask, math.inf), mask, gamma=0.9, lam=0.8
    )
    torch.testing.assert_close(rubbish, clean, rtol=0, atol=0)
    for b in range(len(mask)):  # each response alone, its real tokens only
        m = mask[b]
        alone = gae(rewards[b, m][None], values[b, m][None], m[m][None], gamma=0.9, lam=0.8)
        torch.testing.assert_close((clean[0][b, m][None], clean[1][b, m][None]), alone)


@given(mask=MASKS, seed=st.integers(0, 2**31))
@settings(deadline=None)
def test_identities(mask, seed) -> None:
    mask = torch.tensor(mask)
    rewards, values = draw(mask, seed)
    rewards, values = rewards * mask, values * mask
    full, _ = gae(rewards, values, mask, gamma=1, lam=1)
    reward_to_go = rewards.flip(1).cumsum(1).flip(1)
    torch.testing.assert_close(full, (reward_to_go - values) * mask)

    error, _ = gae(rewards, values, mask, gamma=0.9, lam=0)
    for b in range(len(mask)):
        v = values[b, mask[b]]
        successor = torch.cat([v[1:], v.new_zeros(min(1, len(v)))])
        torch.testing.assert_close(error[b, mask[b]], rewards[b, mask[b]] + 0.9 * successor - v)

    order = torch.randperm(len(mask))
    permuted = gae(rewards[order], values[order], mask[order], gamma=1, lam=1)[0]
    torch.testing.assert_close(permuted, full[order])


def test_a_gap_is_skipped_by_hand() -> None:
    """The same as r=[1, 3], V=[.5, 1.5] without the gap."""
    advantages, returns = gae(row(1.0, 9.0, 3.0), row(0.5, 9.0, 1.5), real(1, 0, 1), gamma=1, lam=0.5)
    torch.testing.assert_close(advantages, row(2.75, 0.0, 1.5))  # delta 1 + 1.5 - .5 = 2, plus .5 * 1.5
    torch.testing.assert_close(returns, row(3.25, 0.0, 3.0))


@pytest.mark.parametrize("shape", [(2, 3), (2, 0), (0, 3)])
def test_nothing_real_gives_zeros(shape) -> None:
    none = torch.zeros(shape, dtype=torch.bool)
    for result in gae(torch.full(shape, math.nan), torch.full(shape, math.nan), none, gamma=1, lam=1):
        assert result.tolist() == torch.zeros(shape).tolist()


def test_bfloat16_is_computed_in_float32() -> None:
    """A sum of 1,000 ones: bfloat16 alone would stop at 256."""
    ones = torch.ones(1, 1000, dtype=torch.bfloat16)
    _, returns = gae(ones, torch.zeros_like(ones), ones.bool(), gamma=1, lam=1)
    assert returns.dtype == torch.float32
    assert returns[0, 0].item() == 1000


def test_component_estimates_by_its_options(make_rollout, make_rewards) -> None:
    rollout = make_rollout(["a"], values=row(0.5, 1.0, 1.5))
    estimator = GAE(gamma=1.0, lam=0.5)
    result = estimator.estimate(rollout, make_rewards(row(1.0, 2.0, 3.0)))
    torch.testing.assert_close(result.returns, row(3.625, 4.25, 3.0))


def test_options() -> None:
    assert (GAE().gamma, GAE().lam) == (1.0, 0.95)
    for wrong in ({"gamma": 1.1}, {"lam": -0.1}, {"gamma": math.nan}, {"lambda": 0.9}):
        with pytest.raises(ValidationError):
            GAE(**wrong)


def test_a_truncated_response_bootstraps_from_its_last_value() -> None:
    """By hand, gamma .5, lam 1, V = 4, 8: A_2 = 2 + .5 * 8 - 8 = -2, A_1 = (1 + .5 * 8 - 4) + .5 * -2 = 0."""
    rewards, values, mask = row(1.0, 9.0, 2.0), row(4.0, 9.0, 8.0), real(1, 0, 1)
    advantages, returns = gae(rewards, values, mask, gamma=0.5, lam=1.0, truncated=torch.tensor([True]))
    assert advantages.tolist() == [[0, 0, -2]]
    assert returns.tolist() == [[4, 0, 6]]
    ended = gae(rewards, values, mask, gamma=0.5, lam=1.0, truncated=torch.tensor([False]))
    torch.testing.assert_close(ended, gae(rewards, values, mask, gamma=0.5, lam=1.0))


@given(mask=MASKS, seed=st.integers(0, 2**31), gamma=UNIT, lam=UNIT)
@settings(deadline=None)
def test_bootstrapping_is_one_more_token_worth_the_last_value(mask, seed, gamma, lam) -> None:
    """As if the response had ended one token later, with the last value as its reward and as its value."""
    mask = torch.tensor(mask)
    rewards, values = draw(mask, seed)
    truncated = torch.arange(len(mask)) % 2 == 0
    result = gae(rewards, values, mask, gamma=gamma, lam=lam, truncated=truncated)
    longer = torch.zeros(len(mask), mask.shape[1] + 1, dtype=torch.float64)
    long_rewards, long_values, long_mask = longer.clone(), longer.clone(), longer.bool()
    long_rewards[:, :-1], long_values[:, :-1], long_mask[:, :-1] = rewards, values, mask
    for b in range(len(mask)):
        if truncated[b] and mask[b].any():
            last = values[b, mask[b].nonzero()[-1]]
            long_rewards[b, -1] = long_values[b, -1] = last
            long_mask[b, -1] = True
    expected = gae(long_rewards, long_values, long_mask, gamma=gamma, lam=lam)
    for ours, theirs in zip(result, expected, strict=True):
        torch.testing.assert_close(ours, theirs[:, :-1], atol=1e-9, rtol=1e-9)


def test_the_option_reads_who_was_truncated(make_rollout, make_rewards) -> None:
    mask = torch.ones(2, 2, dtype=torch.bool)
    rollout = make_rollout(["a", "b"], mask=mask, values=torch.tensor([[4.0, 8.0]] * 2))
    rollout = dataclasses.replace(rollout, outcomes=["finished", "truncated"])
    rewards = make_rewards(torch.tensor([[1.0, 2.0]] * 2))
    result = GAE(gamma=0.5, lam=1.0, bootstrap_truncated=True).estimate(rollout, rewards)
    assert result.advantages.tolist() == [[-2, -6], [0, -2]]
    plain = GAE(gamma=0.5, lam=1.0).estimate(rollout, rewards)
    assert plain.advantages.tolist() == [[-2, -6]] * 2
