"""REINFORCE: the plain policy gradient, optionally weighed by the importance ratio.

    loss = -A * log p_new
    loss = -sg(ratio) * A * log p_new,      ratio = exp(log p_new - log p_old), if importance_weight

with sg the stop-gradient. Williams 1992, Machine Learning 8; for language models with a group's baseline,
Ahmadian et al. 2024 (RLOO), arXiv:2402.14740. The weight makes later passes over a rollout unbiased where the
policy has moved; it is not bounded (but held below exp(60), see `ppokit_losses.ratios`): for a bounded
one use `cispo`, which is this loss with a clipped ratio. Without it, train one pass per rollout. The loss's
value is no objective: only its gradient means something.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from pydantic import Field

from ppokit.plugin import (
    CheckContext,
    Component,
    LossInputs,
    LossOutput,
    Need,
    Options,
    hookimpl,
    upcast,
)
from ppokit_losses.ratios import new_and_old, token_ratio

if TYPE_CHECKING:
    from torch import Tensor


def reinforce(
    new_logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, *, importance_weight: bool
) -> Tensor:
    """Loss of each token, computed in float32 or wider.

    Args:
        new_logprobs: [B,R] under the policy being trained, with gradient.
        old_logprobs: [B,R] under the policy before the update; read with `importance_weight` only.
        advantages: [B,R].
        importance_weight: multiply by the ratio, as a constant to the gradient.

    Returns: [B,R]; d loss / d new_logprobs = -A, times the ratio with `importance_weight`.
    """
    loss = -advantages * upcast(new_logprobs)
    if importance_weight:
        loss = token_ratio(new_logprobs, old_logprobs).detach() * loss
    return loss


class Reinforce(Options):
    importance_weight: bool = Field(
        False,
        description="Multiply by the importance ratio, as a constant: for more than one pass over a rollout.",
    )

    def token_losses(self, inputs: LossInputs) -> LossOutput:
        new, old = new_and_old(inputs)
        weigh = self.importance_weight
        loss = reinforce(new, old, inputs.advantages, importance_weight=weigh)
        return LossOutput(loss, {"policy/ratio": token_ratio(new.detach(), old)})


def check(options: Reinforce, context: CheckContext) -> Iterator[str]:
    if context.overlap and not options.importance_weight:
        yield (
            "importance_weight: got false, and a reward has overlap: true, by which responses are of the "
            "policy of one update before; expected true"
        )


@hookimpl
def ppokit_losses() -> list[Component]:
    needs: frozenset[Need] = frozenset({"new_logprobs", "old_logprobs"})
    return [Component("reinforce", options=Reinforce, needs=needs, check=check)]
