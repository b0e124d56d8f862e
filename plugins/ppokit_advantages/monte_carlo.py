"""Monte Carlo: the discounted reward that came after each token, without a critic.

    A_t = sum_{s >= t} gamma^(s-t) r_s

over real tokens. Sutton and Barto 2018, chapter 13.3 (REINFORCE). Differs: no baseline; `advantages.whiten`
takes the batch's mean off.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from ppokit.plugin import (
    Advantages,
    Component,
    Options,
    Rewards,
    Rollout,
    hookimpl,
    reward_to_go,
)

if TYPE_CHECKING:
    from torch import Tensor


def monte_carlo(token_rewards: Tensor, mask: Tensor, *, gamma: float) -> Tensor:
    """Advantage of each token, computed in float32 or wider.

    Args:
        token_rewards: [B,R].
        mask: [B,R] bool; what stands on False positions changes nothing.
        gamma: discount of a reward that is one token away.

    Returns: [B,R], 0 on padding.
    """
    return reward_to_go(token_rewards, mask, gamma=gamma)


class MonteCarlo(Options):
    gamma: float = Field(1.0, ge=0, le=1, description="Discount of a reward that is one token away.")

    def estimate(self, rollout: Rollout, rewards: Rewards) -> Advantages:
        return Advantages(monte_carlo(rewards.token_rewards, rollout.loss_mask, gamma=self.gamma))


@hookimpl
def ppokit_advantage_estimators() -> list[Component]:
    return [Component("monte_carlo", options=MonteCarlo)]
