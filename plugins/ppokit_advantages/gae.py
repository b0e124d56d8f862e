"""Generalised advantage estimation: one advantage per token, from token rewards and values.

    A_t = delta_t + (gamma * lam) * A_{t+1},   delta_t = r_t + gamma * V_{t+1} - V_t
    returns_t = A_t + V_t

where t+1 is the next real token; A and V after the last real token are 0. With `bootstrap_truncated`, V after
the last real token of a response that was truncated is that token's own V: the response would have gone on.

Schulman et al. 2016, arXiv:1506.02438, eq. 16. Differs: a token that the mask leaves out is skipped,
so that the next real token is the successor; the value of the state behind the last token, in which no token
was chosen, is not computed, and the last one known stands for it (exact where a token changes the value
little); by default a truncated response is treated as one that ended, as most systems do. Whitening is the
core's, by `advantages.whiten`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from ppokit.plugin import Advantages, Component, Options, Rewards, Rollout, hookimpl, upcast

if TYPE_CHECKING:
    from torch import Tensor


def gae(
    token_rewards: Tensor,
    values: Tensor,
    mask: Tensor,
    *,
    gamma: float,
    lam: float,
    truncated: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Advantages and returns, computed in float32 or wider.

    Args:
        token_rewards: [B,R].
        values: [B,R], of the state in which each token was chosen.
        mask: [B,R] bool; what stands on False positions changes nothing, not even a NaN.
        gamma: discount of a reward that is one token away.
        lam: 0 gives the TD error, 1 the return minus the value.
        truncated: [B] bool; True bootstraps the response from its last value; None bootstraps none.

    Returns: advantages [B,R] and returns [B,R], both 0 on padding.
    """
    token_rewards, values = upcast(token_rewards), upcast(values)
    advantages = values.new_zeros(values.shape)
    advantage = next_value = values.new_zeros(values.shape[0])  # [B], of the next real token
    if truncated is not None:
        last = (mask * mask.cumsum(dim=1)).argmax(dim=1, keepdim=True)
        next_value = values.gather(1, last).squeeze(1).where(truncated & mask.any(dim=1), next_value)
    for t in reversed(range(values.shape[1])):
        real = mask[:, t]
        delta = token_rewards[:, t] + gamma * next_value - values[:, t]
        advantage = (delta + gamma * lam * advantage).where(real, advantage)
        next_value = values[:, t].where(real, next_value)
        advantages[:, t] = advantage
    zero = values.new_zeros(())
    return advantages.where(mask, zero), (advantages + values).where(mask, zero)


class GAE(Options):
    gamma: float = Field(1.0, ge=0, le=1, description="Discount of a reward that is one token away.")
    lam: float = Field(
        0.95, ge=0, le=1, description="0 trusts the value function, 1 trusts the rewards that came."
    )
    bootstrap_truncated: bool = Field(
        False, description="Let the last value stand for what a truncated response would still have earned."
    )

    def estimate(self, rollout: Rollout, rewards: Rewards) -> Advantages:
        assert rollout.values is not None, "`needs` names values"
        advantages, returns = gae(
            rewards.token_rewards,
            rollout.values,
            rollout.loss_mask,
            gamma=self.gamma,
            lam=self.lam,
            truncated=rollout.truncated if self.bootstrap_truncated else None,
        )
        return Advantages(advantages, returns)


@hookimpl
def ppokit_advantage_estimators() -> list[Component]:
    return [Component("gae", options=GAE, needs=frozenset({"values"}))]
