"""Numbers are read together, in their order, and the first failure ends it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ppokit.errors import PluginError
from ppokit.training.readings import Failure, Readings


def test_all_by_one_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    copies = []
    tolist = Tensor.tolist
    monkeypatch.setattr(Tensor, "tolist", lambda self: (copies.append(self.shape), tolist(self))[1])
    monkeypatch.setattr(Tensor, "item", lambda self: pytest.fail("one was read by itself"))
    read: list[float] = []
    readings = Readings()
    for number in (torch.tensor(0.1), torch.tensor(2**40 + 1), torch.tensor(True)):
        readings.add(number, lambda value: read.append(value))
    assert not read
    assert readings.read() is None
    assert read == [float(torch.tensor(0.1).double().numpy()), 2**40 + 1, 1.0]
    assert copies == [(3,)]
    assert readings.read() is None
    assert len(read) == 3


def test_tensors_come_before_the_numbers_are_judged() -> None:
    order: list[object] = []
    readings = Readings()
    readings.add(torch.tensor(1.0), lambda value: order.append(value))
    readings.fetch(torch.ones(2, requires_grad=True), lambda tensor: order.append(tensor.tolist()))
    readings.read()
    assert order == [[1.0, 1.0], 1.0]


def test_the_first_failure_ends_it() -> None:
    def breaks(value: float) -> None:
        raise PluginError("too late")

    readings = Readings()
    readings.add(torch.tensor(float("nan")), lambda value: Failure(f"it is {value}"))
    readings.add(torch.tensor(0.0), breaks)
    assert readings.read() == Failure("it is nan")
    readings.add(torch.tensor(0.0), breaks)
    with pytest.raises(PluginError, match="too late"):
        readings.read()
