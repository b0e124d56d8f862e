"""Numbers that a component reports, each with the way in which several of them become one.

A step's number may come from several processes, resampling rounds and micro-batches; its reduction says how
they are put together, so that none of these changes it:

    Mean(value, weight)    sum of weight * value over sum of weight
    Sum(value)             the sum
    Max(value)             the largest

A plain number is a mean that weighs as many responses as it was computed from.
"""

from __future__ import annotations

from dataclasses import dataclass


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


Metric = float | Mean | Sum | Max
"""What a component may report under a name."""
