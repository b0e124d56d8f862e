"""RLOO: a response's reward less the mean reward of the other responses to its prompt.

    A_i = r_i - sum_{j != i} r_j / (n - 1)     over the group

r is the whole reward of a response, the sum of its token rewards. Each token gets A_i.

Ahmadian et al. 2024, arXiv:2402.14740, eq. 8; Kool et al. 2019. Differs: a response that is alone in its
group, because the others could not be scored, gets 0.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ppokit.plugin import (
    Advantages,
    Component,
    Options,
    Rewards,
    Rollout,
    broadcast_to_tokens,
    group_sums,
    hookimpl,
    upcast,
    whole_reward,
)
from ppokit_advantages.group_relative import needs_a_group

if TYPE_CHECKING:
    from torch import Tensor


def leave_one_out(rewards: Tensor, group_ids: Tensor) -> Tensor:
    """Advantage of each response, computed in float32 or wider.

    Args:
        rewards: [B], the whole reward of each response.
        group_ids: [B] int64; responses to one prompt share a group, whatever their order.

    Returns: [B].
    """
    rewards = upcast(rewards)
    sums, sizes = group_sums(rewards, group_ids)
    others = (sums - rewards) / (sizes - 1).clamp(min=1)
    advantages = (rewards - others).where(sizes > 1, sums.new_zeros(()))
    return advantages.to(rewards.dtype)


class LeaveOneOut(Options):
    def estimate(self, rollout: Rollout, rewards: Rewards) -> Advantages:
        whole = whole_reward(rewards.token_rewards, rollout.loss_mask)
        return Advantages(broadcast_to_tokens(leave_one_out(whole, rollout.group_ids), rollout.loss_mask))


@hookimpl
def ppokit_advantage_estimators() -> list[Component]:
    return [Component("leave_one_out", options=LeaveOneOut, check=needs_a_group)]
