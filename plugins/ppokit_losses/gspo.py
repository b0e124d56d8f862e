"""GSPO's clipped loss: PPO's, with one importance ratio per sequence in place of one per token.

    s    = exp(mean over the real tokens of (log p_new - log p_old))
    loss = -min(s * A, clip(s, 1 - clip_low, 1 + clip_high) * A)      on every token

Zheng et al. 2025, arXiv:2507.18071, eq. 5 and 7. It is the paper's objective with the aggregation
`sequence_mean_token_mean` and one advantage per response; the bounds are the paper's, of section 5.1. They
are narrow since s is a geometric mean, and it is usual that many sequences are clipped.

The gradient is that of s, a function of all the sequence's log-probabilities: each token is pushed by the
mean advantage of its sequence. Differs from GSPO-token (eq. 13), which pushes each token by its own: the two
have the same gradient where a sequence has one advantage, as with group-relative estimators, and not with
advantages that vary over a sequence, as those of `gae` do. The value of a far ratio is held, see
`ppokit_losses.ratios`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from ppokit.plugin import Component, LossInputs, LossOutput, Options, hookimpl
from ppokit_losses.ratios import new_and_old, sequence_ratio

if TYPE_CHECKING:
    from torch import Tensor


def gspo(
    new_logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    mask: Tensor,
    *,
    clip_low: float,
    clip_high: float,
) -> Tensor:
    """Loss of each token, computed in float32 or wider.

    Args:
        new_logprobs: [B,R] under the policy being trained, with gradient.
        old_logprobs: [B,R] under the policy before the update.
        advantages: [B,R].
        mask: [B,R] bool, real response tokens.
        clip_low: the sequence's ratio earns nothing below 1 - clip_low.
        clip_high: the sequence's ratio earns nothing above 1 + clip_high.

    Returns: [B,R]; 0 on padding.
    """
    ratio = sequence_ratio(new_logprobs, old_logprobs, mask)  # [B,1]
    clipped = ratio.clamp(1 - clip_low, 1 + clip_high)
    # Masked here: padding shares the sequence's ratio, so a NaN there would reach the real tokens' gradient.
    real = advantages.where(mask, advantages.new_zeros(()))
    return (-real * ratio).maximum(-real * clipped)


class GSPO(Options):
    clip_low: float = Field(
        3e-4, gt=0, le=1, description="The sequence's ratio earns nothing below 1 - clip_low."
    )
    clip_high: float = Field(
        4e-4,
        gt=0,
        allow_inf_nan=False,
        description="The sequence's ratio earns nothing above 1 + clip_high.",
    )

    def token_losses(self, inputs: LossInputs) -> LossOutput:
        new, old = new_and_old(inputs)
        low, high = self.clip_low, self.clip_high
        advantages, mask = inputs.advantages, inputs.mask
        loss = gspo(new, old, advantages, mask, clip_low=low, clip_high=high)
        ratio = sequence_ratio(new.detach(), old, mask)
        stopped = ratio.clamp(1 - low, 1 + high) * advantages < ratio * advantages
        metrics = {"policy/clip_fraction": stopped.to(ratio.dtype), "policy/ratio": ratio.expand_as(loss)}
        return LossOutput(loss, metrics)


@hookimpl
def ppokit_losses() -> list[Component]:
    return [Component("gspo", options=GSPO, needs=frozenset({"new_logprobs", "old_logprobs"}))]
