"""The whole reward, discounted by how late in the response a token stands, less the value there.

    A_t = gamma^t r - V_t,     returns_t = gamma^t r

with r the whole reward of the response and t = 0 for its first real token: `rewards * 0.99**t - predictions`.
Early tokens get most of the credit. A discounted reward to go, as in `monte_carlo` and `gae`, does the
opposite: it discounts by the distance to the reward, so that late tokens get most. No paper. Differs: none.
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
    upcast,
    whole_reward,
)

if TYPE_CHECKING:
    from torch import Tensor


def discounted(token_rewards: Tensor, values: Tensor, mask: Tensor, *, gamma: float) -> tuple[Tensor, Tensor]:
    """Advantages and returns, computed in float32 or wider.

    Args:
        token_rewards: [B,R].
        values: [B,R], of the state in which each token was chosen.
        mask: [B,R] bool; what stands on False positions changes nothing.
        gamma: discount of one place in the response.

    Returns: advantages [B,R] and returns [B,R], both 0 on padding.
    """
    whole, values = whole_reward(token_rewards, mask), upcast(values)
    positions = (mask.cumsum(dim=1) - 1).clamp(min=0).to(whole.dtype)
    zero = whole.new_zeros(())
    returns = whole.unsqueeze(1) * gamma**positions
    return (returns - values).where(mask, zero), returns.where(mask, zero)


class Discounted(Options):
    gamma: float = Field(0.99, ge=0, le=1, description="Discount of one place in the response.")

    def estimate(self, rollout: Rollout, rewards: Rewards) -> Advantages:
        assert rollout.values is not None, "`needs` names values"
        return Advantages(
            *discounted(rewards.token_rewards, rollout.values, rollout.loss_mask, gamma=self.gamma)
        )


@hookimpl
def ppokit_advantage_estimators() -> list[Component]:
    return [Component("discounted", options=Discounted, needs=frozenset({"values"}))]
