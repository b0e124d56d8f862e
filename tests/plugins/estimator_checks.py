"""What the tests of several estimators share: ragged masks, groups, and what padding may hold."""

from __future__ import annotations

from dataclasses import replace

import torch
from hypothesis import strategies as st
from torch import Tensor

from ppokit.plugin.types import Rewards, Rollout

NAN = float("nan")


@st.composite
def token_cases(draw: st.DrawFn) -> tuple[Tensor, Tensor, Tensor]:
    """Token rewards and values [B,R], float64 with NaN on padding, and a mask with gaps and empty rows."""
    rows, columns = draw(st.integers(1, 4)), draw(st.integers(1, 9))
    bits = draw(st.lists(st.booleans(), min_size=rows * columns, max_size=rows * columns))
    mask = torch.tensor(bits).reshape(rows, columns)
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    numbers = torch.randn(2, rows, columns, generator=generator, dtype=torch.float64)
    rewards, values = numbers.masked_fill(~mask, NAN)
    return rewards, values, mask


@st.composite
def grouped_cases(draw: st.DrawFn) -> tuple[Tensor, Tensor]:
    """Rewards [B] float64 and group ids [B], in any order and of any sizes."""
    group_ids = draw(st.lists(st.sampled_from([0, 3, 7, 1000]), min_size=1, max_size=12))
    numbers = st.floats(-100, 100).map(lambda x: round(x, 3))
    rewards = draw(st.lists(numbers, min_size=len(group_ids), max_size=len(group_ids)))
    return torch.tensor(rewards, dtype=torch.float64), torch.tensor(group_ids)


def given(rollout: Rollout, token_rewards: Tensor, *groups: int) -> tuple[Rollout, Rewards]:
    """A rollout in these groups, and its rewards."""
    count = len(token_rewards)
    if groups:
        rollout = replace(rollout, group_ids=torch.tensor(groups))
    everyone = torch.ones(count, dtype=torch.bool)
    return rollout, Rewards(token_rewards, torch.zeros(count), {}, {}, everyone, everyone)


def spoiled(x: Tensor, mask: Tensor, value: float) -> Tensor:
    """x with this value on padding."""
    return x.where(mask, torch.full_like(x, value))
