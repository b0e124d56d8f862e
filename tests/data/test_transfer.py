"""How tensors go to a device, asked of a tensor that keeps account of it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from ppokit.data.transfer import to_device


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Any]]:
    """What is called of a tensor, without a GPU."""
    made: list[tuple[str, Any]] = []
    monkeypatch.setattr(Tensor, "pin_memory", lambda self: (made.append(("pin", None)), self)[1])
    monkeypatch.setattr(Tensor, "to", lambda self, *args, **kw: (made.append(("to", (args, kw))), self)[1])
    return made


def test_to_a_gpu_through_pinned_memory_without_waiting(calls: list[tuple[str, Any]]) -> None:
    gpu = torch.device("cuda", 0)
    to_device(torch.zeros(2), gpu)
    assert calls == [("pin", None), ("to", ((gpu,), {"non_blocking": True}))]


def test_from_the_device_itself_or_to_a_cpu_as_it_is(calls: list[tuple[str, Any]]) -> None:
    cpu = torch.device("cpu")
    to_device(torch.zeros(2), cpu)
    to_device(torch.zeros(2, device="meta"), torch.device("cuda", 0))
    assert [name for name, _ in calls] == ["to", "to"]
    assert all(not options for _, (_, options) in calls)


def test_on_a_cpu_nothing_is_copied() -> None:
    tensor = torch.zeros(2)
    assert to_device(tensor, torch.device("cpu")) is tensor
