"""Losses in groups that share a forward pass, and what plugins owe the core when they compute one."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

from torch import Tensor

from ppokit.config.components import BuiltComponent
from ppokit.errors import PluginError, plugin_call
from ppokit.plugin.needs import only_needed
from ppokit.plugin.protocols import AdvantageWeighting, Need
from ppokit.plugin.types import AdvantageWeights, LossInputs, LossOutput
from ppokit.training.aggregation import MetricAccumulator
from ppokit.training.contracts import check_metric_name, check_tensor
from ppokit.training.readings import Failure


@dataclass(frozen=True)
class LossGroup:
    """Losses that share a forward pass.

    Attributes:
        policy, value: whose pass it is, or both.
        needs: of all its losses.
    """

    losses: tuple[BuiltComponent, ...]
    policy: bool
    value: bool
    needs: frozenset[Need]

    def loss(self, inputs: LossInputs, weights: Tensor, accumulator: MetricAccumulator) -> Tensor:
        """The weighted sum of the losses of a micro-batch.

        What is not finite, or breaks the contract by its numbers, comes out when the accumulator's
        readings are read.

        Args:
            inputs: with what any of the losses needs; each sees what it named.
            weights: [b,R] of each token, see `ppokit.training.aggregation`.

        Returns: a scalar with gradient.

        Raises:
            PluginError: a loss broke its contract.
        """
        zero = weights.new_zeros(())
        if inputs.entropy is not None:
            accumulator.add("policy/entropy", inputs.entropy.detach(), inputs.mask)
        total = zero
        for loss in self.losses:
            if isinstance(loss.instance, AdvantageWeighting):
                inputs = _weighed(loss, inputs, accumulator)
        for loss in self.losses:
            if isinstance(loss.instance, AdvantageWeighting):
                continue
            with plugin_call(loss.where, "token_losses"):
                output = loss.instance.token_losses(only_needed(inputs, loss.needs))
            if not isinstance(output, LossOutput):
                raise PluginError(f"{loss.where} returned a {type(output).__name__}; expected a LossOutput.")
            _check_shapes(loss, {"token_losses": output.token_losses, **output.metrics}, inputs)
            tokens = output.token_losses.where(inputs.mask, zero)
            part = (tokens * weights).sum()
            accumulator.readings.add(part, _adding(loss.name, tokens.detach(), accumulator))
            _add_metrics(loss, output.metrics, inputs.mask, accumulator)
            total = total + loss.settings.weight * part
        return total


def grouped(losses: Sequence[BuiltComponent], *, one_trunk: bool) -> list[LossGroup]:
    """Losses of the value alone pass through the value adapter by themselves: half the memory.

    Args:
        one_trunk: whether the value head stands on the policy's trunk, so that one pass serves both.
    """
    together = one_trunk or any(
        "values" in loss.needs and loss.needs & {"new_logprobs", "entropy"} for loss in losses
    )
    valued = [loss for loss in losses if "values" in loss.needs]
    others = [loss for loss in losses if "values" not in loss.needs]
    parts = [list(losses)] if together else [others, valued]
    return [
        LossGroup(
            losses=tuple(part),
            policy=any("values" not in loss.needs or loss.needs - {"values"} for loss in part),
            value=any("values" in loss.needs for loss in part),
            needs=frozenset().union(*(loss.needs for loss in part)),
        )
        for part in parts
        if part
    ]


def _weighed(loss: BuiltComponent, inputs: LossInputs, accumulator: MetricAccumulator) -> LossInputs:
    """The inputs with weighed advantages."""
    with plugin_call(loss.where, "advantage_weights"):
        output = loss.instance.advantage_weights(only_needed(inputs, loss.needs))
    if not isinstance(output, AdvantageWeights):
        raise PluginError(f"{loss.where} returned a {type(output).__name__}; expected AdvantageWeights.")
    _check_shapes(loss, {"weights": output.weights, **output.metrics}, inputs)
    weights = output.weights.detach().where(inputs.mask, output.weights.new_ones(()))

    def check(all_good: float) -> None:
        if not all_good:
            raise PluginError(f"{loss.where} returned weights below 0 or not finite; expected 0 or more.")

    accumulator.readings.add((weights.isfinite() & (weights >= 0)).all(), check)
    _add_metrics(loss, output.metrics, inputs.mask, accumulator)
    return replace(inputs, advantages=inputs.advantages * weights)


def _add_metrics(
    loss: BuiltComponent, metrics: Mapping[str, Tensor], mask: Tensor, accumulator: MetricAccumulator
) -> None:
    """What a loss reports; as `loss/<its name>/<metric>` where another component reports under that name."""
    for name, numbers in metrics.items():
        check_metric_name(name, loss.where)
        owner = accumulator.owners.setdefault(name, loss.name)
        own = name if owner == loss.name else f"loss/{loss.name}/{name}"
        accumulator.add(own, numbers.detach(), mask, partial(_check_finite, loss, name))


def _check_finite(loss: BuiltComponent, name: str, total: float) -> None:
    if not math.isfinite(total):
        raise PluginError(f"{loss.where} returned the metric {name!r} with numbers that are not finite.")


def _adding(name: str, tokens: Tensor, accumulator: MetricAccumulator) -> Callable[[float], Failure | None]:
    """What is done with a micro-batch's loss once it is read."""

    def add(part: float) -> Failure | None:
        if not math.isfinite(part):
            rows = (~tokens.isfinite()).any(dim=1).nonzero().flatten().tolist()
            return Failure(f"loss {name!r} is {part}", rows)
        accumulator.add_sum(f"loss/{name}", part)
        return None

    return add


def _check_shapes(loss: BuiltComponent, named: Mapping[str, Tensor], inputs: LossInputs) -> None:
    for name, tensor in named.items():
        shape, axes = list(inputs.mask.shape), "responses, response tokens of the micro-batch"
        check_tensor(loss.where, name, tensor, shape, axes)
