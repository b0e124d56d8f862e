"""Entropy bonus: the negated entropy of the policy, to be weighed in the recipe.

    loss = -H(p_new)

Mnih et al. 2016, arXiv:1602.01783; Schulman et al. 2017, arXiv:1707.06347, eq. 9, where the weight is
c_2. Differs: the coefficient is the recipe's `weight`, such as 0.01.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ppokit.plugin import Component, LossInputs, LossOutput, Options, hookimpl

if TYPE_CHECKING:
    from torch import Tensor


def entropy(entropy: Tensor) -> Tensor:
    """Loss of each token.

    Args:
        entropy: [B,R] of the distribution that each token was drawn from, in nats, with gradient.

    Returns: [B,R].
    """
    return -entropy


class Entropy(Options):
    def token_losses(self, inputs: LossInputs) -> LossOutput:
        assert inputs.entropy is not None, "`needs` names entropy"
        return LossOutput(entropy(inputs.entropy))


@hookimpl
def ppokit_losses() -> list[Component]:
    return [Component("entropy", options=Entropy, needs=frozenset({"entropy"}))]
