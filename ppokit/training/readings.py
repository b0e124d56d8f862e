"""Numbers on the model's device that are read together: the host waits for the device once, and not for each.

A GPU works behind the program that gives it work. Whoever asks it for a number waits until all is done, and
until then nothing new is queued; so the numbers of a micro-batch are checked and added up after its last
backward pass.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Failure:
    """A number that is not finite: what it is, and of which rows of the micro-batch, if one can say."""

    what: str
    rows: Sequence[int] = ()


class Readings:
    """Numbers that are still to be read, in order, and what is done with each."""

    def __init__(self) -> None:
        self._numbers: list[tuple[Tensor, Callable[[float], Failure | None]]] = []
        self._arrivals: list[tuple[Tensor, Callable[[Tensor], None]]] = []

    def add(self, number: Tensor, then: Callable[[float], Failure | None]) -> None:
        """Read a number, a scalar of any dtype; `then` gets it and says whether the step fails by it."""
        self._numbers.append((number.detach(), then))

    def fetch(self, tensor: Tensor, then: Callable[[Tensor], None]) -> None:
        """Bring a tensor to the CPU."""
        self._arrivals.append((tensor.detach().to("cpu", non_blocking=True), then))

    def read(self) -> Failure | None:
        """Wait for the device, then do what was asked for; the first failure ends it.

        Raises:
            PluginError: what a component gave is not what was promised.
        """
        numbers, self._numbers = self._numbers, []
        arrivals, self._arrivals = self._arrivals, []
        # The numbers come last on the device's queue: once they are here, so are the tensors.
        values = torch.stack([number.double() for number, _ in numbers]).tolist() if numbers else []
        for tensor, keep in arrivals:
            keep(tensor)
        for value, (_, then) in zip(values, numbers, strict=True):
            failure = then(value)
            if failure is not None:
                return failure
        return None
