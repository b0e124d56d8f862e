"""The reward that came less the mean of what the value function predicted over the batch.

    A_t = G_t - mean(V),     G_t = sum_{s >= t} r_s,     returns_t = G_t

over real tokens. The simplest form of an advantage: `rewards - mean(predictions)`. One number is taken off
every token, so that the value function centres the batch and tells no token from another; `gae` does.
No paper. Differs: G_t is what came from the token on, where the formula says rewards.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ppokit.plugin import (
    Advantages,
    Component,
    Options,
    Rewards,
    Rollout,
    hookimpl,
    masked_mean,
    reward_to_go,
    upcast,
)

if TYPE_CHECKING:
    from torch import Tensor


def mean_baseline(token_rewards: Tensor, values: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Advantages and returns, computed in float32 or wider.

    Args:
        token_rewards: [B,R].
        values: [B,R], of the state in which each token was chosen.
        mask: [B,R] bool; what stands on False positions changes nothing.

    Returns: advantages [B,R] and returns [B,R], both 0 on padding.
    """
    returns = reward_to_go(token_rewards, mask, gamma=1.0)
    advantages = returns - masked_mean(upcast(values), mask)
    return advantages.where(mask, advantages.new_zeros(())), returns


class MeanBaseline(Options):
    def estimate(self, rollout: Rollout, rewards: Rewards) -> Advantages:
        assert rollout.values is not None, "`needs` names values"
        return Advantages(*mean_baseline(rewards.token_rewards, rollout.values, rollout.loss_mask))


@hookimpl
def ppokit_advantage_estimators() -> list[Component]:
    return [Component("mean_baseline", options=MeanBaseline, needs=frozenset({"values"}))]
