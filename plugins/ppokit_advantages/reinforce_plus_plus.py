"""REINFORCE++: discounted rewards to go, normalised over the whole batch.

    G_t = sum_{s >= t} gamma^(s-t) r_s,     A_t = (G_t - mean(G)) / (std(G) + epsilon)

with mean and population deviation over the real tokens of the batch, over all processes. The form with a
baseline (`baseline: group_mean`) first takes the mean whole reward of the prompt's responses off the reward
at the last token.

Hu et al. 2025, arXiv:2501.03262: global advantage normalisation, and its form with a baseline. The KL
penalty is among the token rewards, as in the paper. Differs: epsilon.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from ppokit.plugin import (
    Advantages,
    CheckContext,
    Component,
    Options,
    Rewards,
    Rollout,
    group_sums,
    hookimpl,
    masked_mean,
    masked_variance,
    reward_to_go,
    upcast,
    whole_reward,
)
from ppokit_advantages.group_relative import needs_a_group

if TYPE_CHECKING:
    from torch import Tensor

Baseline = Literal["none", "group_mean"]


def reinforce_plus_plus(
    token_rewards: Tensor,
    mask: Tensor,
    group_ids: Tensor,
    *,
    gamma: float,
    baseline: Baseline = "none",
    epsilon: float = 1e-8,
) -> Tensor:
    """Advantage of each token, computed in float32 or wider.

    Args:
        token_rewards: [B,R].
        mask: [B,R] bool; what stands on False positions changes nothing.
        group_ids: [B] int64; read with `group_mean` only.
        gamma: discount of a reward that is one token away.
        baseline: what is taken off the reward at the last token.
        epsilon: added to the deviation.

    Returns: [B,R], 0 on padding.
    """
    token_rewards = upcast(token_rewards)
    if baseline == "group_mean":
        sums, sizes = group_sums(whole_reward(token_rewards, mask), group_ids)
        last = mask & (mask.flip(1).cumsum(1).flip(1) == 1)
        mean = (sums / sizes).to(token_rewards.dtype)
        token_rewards = token_rewards - mean.unsqueeze(1) * last
    returns = reward_to_go(token_rewards, mask, gamma=gamma)
    centered = (returns - masked_mean(returns, mask)).where(mask, returns.new_zeros(()))
    deviation = masked_variance(returns, mask, variance="population").sqrt()
    return centered / (deviation + epsilon)


class ReinforcePlusPlus(Options):
    gamma: float = Field(1.0, ge=0, le=1, description="Discount of a reward that is one token away.")
    baseline: Baseline = Field(
        "none", description="group_mean takes off the mean reward of the prompt's responses."
    )
    epsilon: float = Field(1e-8, ge=0, allow_inf_nan=False, description="Added to the deviation.")

    def estimate(self, rollout: Rollout, rewards: Rewards) -> Advantages:
        return Advantages(
            reinforce_plus_plus(
                rewards.token_rewards,
                rollout.loss_mask,
                rollout.group_ids,
                gamma=self.gamma,
                baseline=self.baseline,
                epsilon=self.epsilon,
            )
        )


def _check(options: ReinforcePlusPlus, context: CheckContext) -> Iterator[str]:
    if options.baseline == "group_mean":
        yield from needs_a_group(options, context)


@hookimpl
def ppokit_advantage_estimators() -> list[Component]:
    return [Component("reinforce_plus_plus", options=ReinforcePlusPlus, check=_check)]
