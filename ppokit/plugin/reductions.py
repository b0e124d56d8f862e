"""Numbers that a component reports, each with the way in which several of them become one.

A step's number may come from several processes, resampling rounds and micro-batches; its reduction says how
they are put together, so that none of these changes it:

    Mean(value, weight)    sum of weight * value over sum of weight
    Sum(value)             the sum
    Max(value)             the largest

A plain number is a mean that weighs as many responses as it was computed from.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ppokit.errors import PluginError


@dataclass(frozen=True)
class Mean:
    """A mean and its weight, such as the number of tokens or responses that it is over."""

    value: float
    weight: float = 1.0


@dataclass(frozen=True)
class Sum:
    """A count or a total."""

    value: float


@dataclass(frozen=True)
class Max:
    """A largest value."""

    value: float


Reduction = Mean | Sum | Max
Metric = float | Reduction
"""What a component may report under a name."""


def merge(parts: Iterable[Mapping[str, Reduction]]) -> dict[str, Reduction]:
    """Metrics of several processes, resampling rounds or micro-batches as those of the whole.

    A name that some parts lack is taken from the others.

    Raises:
        PluginError: a name has different reductions.
    """
    by_name: dict[str, list[Reduction]] = {}
    for part in parts:
        for name, metric in part.items():
            by_name.setdefault(name, []).append(metric)
    return {name: _merged(name, metrics) for name, metrics in by_name.items()}


def _merged(name: str, metrics: list[Reduction]) -> Reduction:
    kinds = {type(metric) for metric in metrics}
    if len(kinds) > 1:
        named = " and a ".join(sorted(kind.__name__ for kind in kinds))
        raise PluginError(f"the metric {name!r} is reported as a {named}; expected one of them everywhere.")
    if kinds == {Sum}:
        return Sum(sum(metric.value for metric in metrics))
    if kinds == {Max}:
        return Max(max(metric.value for metric in metrics))
    means = [metric for metric in metrics if isinstance(metric, Mean)]
    weight = sum(mean.weight for mean in means)
    total = sum(mean.value * mean.weight for mean in means)
    return Mean(total / weight if weight else 0.0, weight)


def as_numbers(metrics: Mapping[str, Metric]) -> dict[str, float]:
    """The numbers alone; a mean of weight 0 is of nothing, and left out."""
    return {
        name: metric.value if isinstance(metric, Reduction) else metric
        for name, metric in metrics.items()
        if not isinstance(metric, Mean) or metric.weight > 0
    }
