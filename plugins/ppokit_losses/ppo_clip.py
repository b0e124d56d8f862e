"""PPO's clipped surrogate loss, with separate clip bounds and an optional dual clip.

    ratio = exp(log p_new - log p_old)
    loss  = -min(ratio * A, clip(ratio, 1 - clip_low, 1 + clip_high) * A)
    loss  = min(loss, -dual_clip * A)   where A < 0, if dual_clip is given

Schulman et al. 2017, arXiv:1707.06347, eq. 7; two bounds: DAPO, arXiv:2503.14476; dual clip: Ye et al.
2020, arXiv:1912.09729, eq. 5. Differs: the value of a far ratio is held, see `ppokit_losses.ratios`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from ppokit.plugin import Component, LossInputs, LossOutput, Options, hookimpl
from ppokit_losses.ratios import new_and_old, token_ratio

if TYPE_CHECKING:
    from torch import Tensor


def ppo_clip(
    new_logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    *,
    clip_low: float,
    clip_high: float,
    dual_clip: float | None = None,
) -> Tensor:
    """Loss of each token, computed in float32 or wider.

    Args:
        new_logprobs: [B,R] under the policy being trained, with gradient.
        old_logprobs: [B,R] under the policy before the update.
        advantages: [B,R].
        clip_low: the ratio earns nothing below 1 - clip_low.
        clip_high: the ratio earns nothing above 1 + clip_high.
        dual_clip: where A < 0 the loss is at most -dual_clip * A; above 1.

    Returns: [B,R].
    """
    ratio = token_ratio(new_logprobs, old_logprobs)
    clipped = ratio.clamp(1 - clip_low, 1 + clip_high)
    loss = (-advantages * ratio).maximum(-advantages * clipped)
    if dual_clip is None:
        return loss
    return loss.minimum(-advantages * dual_clip).where(advantages < 0, loss)


class PPOClip(Options):
    clip_low: float = Field(0.2, gt=0, le=1, description="The ratio earns nothing below 1 - clip_low.")
    clip_high: float = Field(
        0.2, gt=0, allow_inf_nan=False, description="The ratio earns nothing above 1 + clip_high."
    )
    dual_clip: float | None = Field(
        None,
        gt=1,
        allow_inf_nan=False,
        description="Where the advantage is negative, count the ratio as at most this; 3 is usual. "
        "Not set: no such bound.",
    )

    def token_losses(self, inputs: LossInputs) -> LossOutput:
        new, old = new_and_old(inputs)
        low, high, dual = self.clip_low, self.clip_high, self.dual_clip
        advantages = inputs.advantages
        loss = ppo_clip(new, old, advantages, clip_low=low, clip_high=high, dual_clip=dual)
        ratio = token_ratio(new.detach(), old)
        stopped = ratio.clamp(1 - low, 1 + high) * advantages < ratio * advantages
        metrics = {
            "policy/clip_fraction": stopped.to(ratio.dtype),
            "policy/ratio": ratio,
        }
        if dual is not None:
            metrics["policy/dual_clip_fraction"] = ((advantages < 0) & (ratio > dual)).to(ratio.dtype)
        return LossOutput(loss, metrics)


@hookimpl
def ppokit_losses() -> list[Component]:
    return [Component("ppo_clip", options=PPOClip, needs=frozenset({"new_logprobs", "old_logprobs"}))]
