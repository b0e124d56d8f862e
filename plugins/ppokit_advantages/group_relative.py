"""GRPO: a response's reward against those of the other responses to its prompt.

    A_i = (r_i - mean(r)) / (std(r) + epsilon)     over the group
    A_i =  r_i - mean(r)                           if not normalise: Dr. GRPO

r is the whole reward of a response, the sum of its token rewards. Each token gets A_i.

Shao et al. 2024 (DeepSeekMath), arXiv:2402.03300, section 4.1; Liu et al. 2025 (Dr. GRPO), arXiv:2503.20783.
Differs: epsilon, which the papers leave out, and the sample deviation, which they leave open. A group whose
rewards are all equal gives exactly 0.
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
    Variance,
    broadcast_to_tokens,
    group_sums,
    hookimpl,
    upcast,
    whole_reward,
)

if TYPE_CHECKING:
    from torch import Tensor


def group_relative(
    rewards: Tensor,
    group_ids: Tensor,
    *,
    normalise: bool,
    variance: Variance = "sample",
    epsilon: float = 1e-6,
    singleton: Literal["zero", "keep"] = "zero",
) -> Tensor:
    """Advantage of each response, computed in float32 or wider.

    Args:
        rewards: [B], the whole reward of each response.
        group_ids: [B] int64; responses to one prompt share a group, whatever their order.
        normalise: whether to divide by the group's standard deviation.
        variance: its square is divided by n - 1 (`sample`) or n (`population`).
        epsilon: added to the deviation.
        singleton: what a response alone in its group gets: 0, or its reward as it is.

    Returns: [B].
    """
    rewards = upcast(rewards)
    sums, sizes = group_sums(rewards, group_ids)
    centered = rewards.double() - sums / sizes
    squares, _ = group_sums(centered.square(), group_ids)
    # Rounding must not be amplified by a deviation of nearly 0.
    differ = squares > (1e-7 * sums / sizes).square() * sizes
    advantages = centered
    if normalise:
        counts = sizes - 1 if variance == "sample" else sizes
        advantages = centered / ((squares / counts.clamp(min=1)).sqrt() + epsilon)
    advantages = advantages.where(differ, advantages.new_zeros(()))
    if singleton == "keep":
        advantages = rewards.double().where(sizes == 1, advantages)
    return advantages.to(rewards.dtype)


class GroupRelative(Options):
    normalise: bool = Field(
        True, description="Divide by the group's standard deviation (GRPO); false is Dr. GRPO."
    )
    variance: Variance = Field(
        "sample", description="Of the deviation: divided by n - 1 (sample) or n (population)."
    )
    epsilon: float = Field(1e-6, ge=0, allow_inf_nan=False, description="Added to the deviation.")
    singleton: Literal["zero", "keep"] = Field(
        "zero",
        description="What a response gets that is alone in its group because the others could not be scored: "
        "0, or its reward as it is.",
    )

    def estimate(self, rollout: Rollout, rewards: Rewards) -> Advantages:
        advantages = group_relative(
            whole_reward(rewards.token_rewards, rollout.loss_mask),
            rollout.group_ids,
            normalise=self.normalise,
            variance=self.variance,
            epsilon=self.epsilon,
            singleton=self.singleton,
        )
        return Advantages(broadcast_to_tokens(advantages, rollout.loss_mask))


def needs_a_group(options: Options, context: CheckContext) -> Iterator[str]:
    """Refuses one response per prompt."""
    if context.responses_per_prompt == 1:
        yield (
            "got rollout.responses_per_prompt 1; this estimator compares the responses to one prompt with "
            "each other: expected 2 or more, such as 8"
        )


@hookimpl
def ppokit_advantage_estimators() -> list[Component]:
    return [Component("group_relative", options=GroupRelative, check=needs_a_group)]
