"""ReMax: a response's reward less that of the greedy response to its prompt.

    A = r(x, y) - r(x, greedy(x))

r is the whole reward of a response, the sum of its token rewards. Each token gets A.

Li et al. 2023, arXiv:2310.10505, section 4. Differs: none. The engine answers each prompt once more,
greedily, and those responses are scored too.
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
    hookimpl,
    upcast,
    whole_reward,
)

if TYPE_CHECKING:
    from torch import Tensor


def remax(rewards: Tensor, greedy_rewards: Tensor) -> Tensor:
    """Advantage of each response, computed in float32 or wider.

    Args:
        rewards: [B], the whole reward of each response.
        greedy_rewards: [B], that of the greedy response to the same prompt.

    Returns: [B].
    """
    return upcast(rewards) - upcast(greedy_rewards)


class ReMax(Options):
    def estimate(self, rollout: Rollout, rewards: Rewards) -> Advantages:
        assert rewards.greedy_returns is not None, "`needs` names greedy"
        whole = whole_reward(rewards.token_rewards, rollout.loss_mask)
        return Advantages(broadcast_to_tokens(remax(whole, rewards.greedy_returns), rollout.loss_mask))


@hookimpl
def ppokit_advantage_estimators() -> list[Component]:
    return [Component("remax", options=ReMax, needs=frozenset({"greedy"}))]
