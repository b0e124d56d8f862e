"""What a run computes on: system, processor, memory, accelerator, and the dtype of its numbers."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any

import torch

_GIB = 2**30


def machine(device: torch.device, dtype: torch.dtype) -> dict[str, Any]:
    """Of the process that asks; memory in GiB.

    Args:
        device, dtype: of the model. `auto` chooses the dtype by the machine.

    Returns: `system`, `cpu`, `cores` (those that the process may use), `device` and `dtype`; `memory` where
        the system tells it, and on a GPU `device_memory`.
    """
    known: dict[str, Any] = {
        "system": platform.platform(),
        "cpu": _processor(),
        "cores": cores(),
        "device": device.type,
        "dtype": str(dtype).removeprefix("torch."),
    }
    if hasattr(os, "sysconf"):
        known["memory"] = round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / _GIB, 1)
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        known["device"] = properties.name
        known["device_memory"] = round(properties.total_memory / _GIB, 1)
    return known


def _processor() -> str:
    """Its name. Python's `platform` has none on Linux."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def cores() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
