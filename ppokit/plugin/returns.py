"""What several estimators share: whole rewards, discounted rewards to go, and baselines of groups."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ppokit.plugin.masked import upcast

if TYPE_CHECKING:
    from torch import Tensor


def whole_reward(token_rewards: Tensor, mask: Tensor) -> Tensor:
    """[B]: the sum of a response's token rewards, a KL penalty among them included.

    Args:
        token_rewards: [B,R].
        mask: [B,R] bool.
    """
    token_rewards = upcast(token_rewards)
    return token_rewards.where(mask, token_rewards.new_zeros(())).sum(dim=1)


def broadcast_to_tokens(numbers: Tensor, mask: Tensor) -> Tensor:
    """[B,R]: a number per response on each of its real tokens, 0 on padding."""
    return numbers.unsqueeze(1) * mask


def reward_to_go(token_rewards: Tensor, mask: Tensor, *, gamma: float) -> Tensor:
    """[B,R]: G_t = sum_{s >= t} gamma^(s-t) r_s over real tokens; 0 on padding.

    Distances count real tokens only. Computed by doubling, G_t over 2k tokens from G over k: log2(R) passes,
    and no power of gamma is divided by, so that long responses stay finite.

    Args:
        token_rewards: [B,R].
        mask: [B,R] bool.
        gamma: discount of a reward that is one real token away.
    """
    token_rewards = upcast(token_rewards)
    # Real tokens first, in their order, so that neighbours stand beside each other; zeros behind them.
    order = mask.logical_not().long().sort(dim=1, stable=True).indices
    packed = token_rewards.where(mask, token_rewards.new_zeros(())).gather(1, order)
    step, width = 1, packed.shape[1]
    while step < width:
        longer = packed.clone()
        longer[:, : width - step] += gamma**step * packed[:, step:]
        packed, step = longer, step * 2
    return packed.new_empty(packed.shape).scatter(1, order, packed)


def group_sums(numbers: Tensor, group_ids: Tensor) -> tuple[Tensor, Tensor]:
    """Sum over the group of each response, and its size; both [B], the sum in float64.

    Args:
        numbers: [B].
        group_ids: [B] int64.
    """
    groups, index = group_ids.unique(return_inverse=True)  # type: ignore[no-untyped-call]
    sums = numbers.double().new_zeros(len(groups)).index_add_(0, index, numbers.double())
    sizes = index.bincount(minlength=len(groups))
    return sums[index], sizes[index]
