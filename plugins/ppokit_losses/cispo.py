"""CISPO's loss: the policy gradient, each token weighed by its clipped importance ratio.

    ratio = exp(log p_new - log p_old)
    loss  = -sg(clip(ratio, 1 - clip_low, 1 + clip_high)) * A * log p_new

with sg the stop-gradient: the gradient goes through log p_new only, so the clip bounds a token's weight and
stops no token's gradient, where PPO's clip drops rare tokens after their first step.

MiniMax 2025 (MiniMax-M1), arXiv:2506.13585, eq. 4 and 5; its mean is over all tokens of the group, here
the aggregation `token_mean`. The paper sets no lower bound, nor does the default clip_low of 1, and tunes
clip_high without giving its value; the default of 4, which counts a ratio as at most 5, is this project's.
The loss's value is no objective: only its gradient means something. The value of a far ratio is held, see
`ppokit_losses.ratios`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from ppokit.plugin import Component, LossInputs, LossOutput, Options, hookimpl, upcast
from ppokit_losses.ratios import new_and_old, token_ratio

if TYPE_CHECKING:
    from torch import Tensor


def cispo(
    new_logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, *, clip_low: float, clip_high: float
) -> Tensor:
    """Loss of each token, computed in float32 or wider.

    Args:
        new_logprobs: [B,R] under the policy being trained, with gradient.
        old_logprobs: [B,R] under the policy before the update.
        advantages: [B,R].
        clip_low: a ratio weighs at least 1 - clip_low; 1 bounds nothing.
        clip_high: a ratio weighs at most 1 + clip_high.

    Returns: [B,R]; d loss / d new_logprobs = -clip(ratio) * A.
    """
    weight = token_ratio(new_logprobs, old_logprobs).clamp(1 - clip_low, 1 + clip_high)
    return -weight.detach() * advantages * upcast(new_logprobs)


class CISPO(Options):
    clip_low: float = Field(
        1.0,
        gt=0,
        le=1,
        description="A ratio weighs at least 1 - clip_low; 1: no lower bound, as in the paper.",
    )
    clip_high: float = Field(
        4.0, gt=0, allow_inf_nan=False, description="A ratio weighs at most 1 + clip_high."
    )

    def token_losses(self, inputs: LossInputs) -> LossOutput:
        new, old = new_and_old(inputs)
        low, high = self.clip_low, self.clip_high
        loss = cispo(new, old, inputs.advantages, clip_low=low, clip_high=high)
        ratio = token_ratio(new.detach(), old)
        bounded = (ratio < 1 - low) | (ratio > 1 + high)
        return LossOutput(loss, {"policy/clip_fraction": bounded.to(ratio.dtype), "policy/ratio": ratio})


@hookimpl
def ppokit_losses() -> list[Component]:
    return [Component("cispo", options=CISPO, needs=frozenset({"new_logprobs", "old_logprobs"}))]
