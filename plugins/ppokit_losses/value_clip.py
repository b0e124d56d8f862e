"""Squared error of the value function, clipped around the values before the update.

    loss = 0.5 * max((V - R)^2, (clip(V, V_old - clip_range, V_old + clip_range) - R)^2)

OpenAI baselines' PPO2; Ziegler et al. 2019, arXiv:1909.08593, use it for language models. Differs: none.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from ppokit.plugin import Component, LossInputs, LossOutput, Options, hookimpl, upcast

if TYPE_CHECKING:
    from torch import Tensor


def value_clip(values: Tensor, old_values: Tensor, returns: Tensor, *, clip_range: float) -> Tensor:
    """Loss of each token, computed in float32 or wider.

    Args:
        values: [B,R] of the value function being trained, with gradient.
        old_values: [B,R] before the update.
        returns: [B,R], the targets.
        clip_range: a step away from `old_values` beyond this earns nothing.

    Returns: [B,R].
    """
    free, clipped = _squared_errors(values, old_values, returns, clip_range)
    return 0.5 * free.maximum(clipped)


def _squared_errors(
    values: Tensor, old_values: Tensor, returns: Tensor, clip_range: float
) -> tuple[Tensor, Tensor]:
    values, old_values, returns = upcast(values), upcast(old_values), upcast(returns)
    clipped = values.clamp(old_values - clip_range, old_values + clip_range)
    return (values - returns).square(), (clipped - returns).square()


class ValueClip(Options):
    clip_range: float = Field(
        0.2,
        gt=0,
        allow_inf_nan=False,
        description="How far a value may move from the value before the update, in units of reward.",
    )

    def token_losses(self, inputs: LossInputs) -> LossOutput:
        assert inputs.values is not None, "`needs` names values"
        assert inputs.old_values is not None, "`needs` names values"
        assert inputs.returns is not None, "an estimator without returns cannot train a value function"
        clip_range = self.clip_range
        loss = value_clip(inputs.values, inputs.old_values, inputs.returns, clip_range=clip_range)
        free, clipped = _squared_errors(inputs.values.detach(), inputs.old_values, inputs.returns, clip_range)
        return LossOutput(loss, {"value/clip_fraction": (clipped > free).to(free.dtype)})


@hookimpl
def ppokit_losses() -> list[Component]:
    return [Component("value_clip", options=ValueClip, needs=frozenset({"values"}))]
