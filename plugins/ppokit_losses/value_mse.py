"""Squared error of the value function.

    loss = 0.5 * (V - R)^2

The value loss of Schulman et al. 2017, arXiv:1707.06347, eq. 9, where its weight is c_1. Differs: the half,
by which the gradient is the error; the coefficient is the recipe's `weight`. `value_clip` is this loss with
a bound on how far a value moves in one update.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ppokit.plugin import Component, LossInputs, LossOutput, Options, hookimpl, upcast

if TYPE_CHECKING:
    from torch import Tensor


def value_mse(values: Tensor, returns: Tensor) -> Tensor:
    """Loss of each token, computed in float32 or wider.

    Args:
        values: [B,R] of the value function being trained, with gradient.
        returns: [B,R], the targets.

    Returns: [B,R]; d loss / d values = V - R.
    """
    return 0.5 * (upcast(values) - upcast(returns)).square()


class ValueMSE(Options):
    def token_losses(self, inputs: LossInputs) -> LossOutput:
        assert inputs.values is not None, "`needs` names values"
        assert inputs.returns is not None, "an estimator without returns cannot train a value function"
        return LossOutput(value_mse(inputs.values, inputs.returns))


@hookimpl
def ppokit_losses() -> list[Component]:
    return [Component("value_mse", options=ValueMSE, needs=frozenset({"values"}))]
