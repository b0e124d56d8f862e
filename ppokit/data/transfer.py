"""Copies to the model's device, which the CPU does not wait for."""

from __future__ import annotations

import torch
from torch import Tensor


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor of the CPU's on a device.

    To a GPU it goes through pinned memory, while the GPU works on: what is computed of it there waits for it.
    """
    if device.type in ("cpu", "mps") or tensor.device.type != "cpu":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)
