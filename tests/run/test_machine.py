"""What a run says of the machine that it ran on."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from ppokit.run.machine import cores, machine


def test_on_a_processor() -> None:
    known = machine(torch.device("cpu"), torch.bfloat16)
    assert (known["device"], known["dtype"]) == ("cpu", "bfloat16")
    assert 1 <= known["cores"] == cores() <= (os.cpu_count() or 1)
    assert "device_memory" not in known
    if (meminfo := Path("/proc/meminfo")).is_file():  # in kB, without what the kernel itself takes
        total = int(meminfo.read_text().split()[1]) / 2**20
        assert known["memory"] == pytest.approx(total, abs=0.1, rel=0.02)
    if (cpuinfo := Path("/proc/cpuinfo")).is_file() and "model name" in cpuinfo.read_text():
        assert known["cpu"]


def test_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    card = SimpleNamespace(name="NVIDIA H200", total_memory=int(139.8 * 2**30))
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: card)
    known = machine(torch.device("cuda", 0), torch.float16)
    assert (known["device"], known["device_memory"], known["dtype"]) == ("NVIDIA H200", 139.8, "float16")
