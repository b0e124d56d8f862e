"""The sum of a surrogate and a clipping term; its gradient vanishes inside the clip range.

    loss = -A * log p_new + clamp(log p_new - log p_old, -clip, clip) * A

From a blog post that explains PPO for language models; no paper has it. It is here to be tried and
understood, not to train with. Its gradient with respect to log p_new is

    -A + A = 0    where |log p_new - log p_old| <= clip: the two terms cancel exactly;
    -A            beyond: the second term is constant, and only the first is left.

So it is the reverse of PPO's clip, which lets a token move inside the range and stops it beyond. A policy at
log p_old, as every policy is when its update begins, gets no gradient at all: as the policy's only loss it
never moves a weight, and the run is stopped after its first update. Beside a loss that does, it leaves a
token alone inside the range and drives it on without bound once it has left it, at either end. Use
`ppo_clip` to train. Differs: none.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from ppokit.plugin import Component, LossInputs, LossOutput, Need, Options, hookimpl, upcast
from ppokit_losses.ratios import new_and_old

if TYPE_CHECKING:
    from torch import Tensor


def surrogate_clip_sum(
    new_logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, *, clip: float
) -> Tensor:
    """Loss of each token, computed in float32 or wider.

    Args:
        new_logprobs: [B,R] under the policy being trained, with gradient.
        old_logprobs: [B,R] under the policy before the update.
        advantages: [B,R].
        clip: bound of the log-ratio in the second term, in nats.

    Returns: [B,R].
    """
    new = upcast(new_logprobs)
    return -advantages * new + (new - upcast(old_logprobs)).clamp(-clip, clip) * advantages


class SurrogateClipSum(Options):
    clip: float = Field(
        0.2,
        gt=0,
        allow_inf_nan=False,
        description="Bound of the log-ratio in the second term, in nats; within it there is no gradient.",
    )

    def token_losses(self, inputs: LossInputs) -> LossOutput:
        new, old = new_and_old(inputs)
        clip = self.clip
        loss = surrogate_clip_sum(new, old, inputs.advantages, clip=clip)
        beyond = (upcast(new.detach()) - upcast(old)).abs() > clip
        return LossOutput(loss, {"policy/clip_fraction": beyond.to(loss.dtype)})


@hookimpl
def ppokit_losses() -> list[Component]:
    needs: frozenset[Need] = frozenset({"new_logprobs", "old_logprobs"})
    return [Component("surrogate_clip_sum", options=SurrogateClipSum, needs=needs)]
