"""What several processes share: the same calls in the same order on every one of them."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor

if TYPE_CHECKING:
    from accelerate import Accelerator

T = TypeVar("T")


class Processes:
    """Collectives over the processes of an Accelerator; each method is free in a single process."""

    def __init__(self, accelerator: Accelerator) -> None:
        self.accelerator = accelerator
        self.rank: int = accelerator.process_index
        self.count: int = accelerator.num_processes
        self.is_main: bool = accelerator.is_main_process
        self.device: torch.device = accelerator.device

    def share(self, total: int) -> range:
        """This process's part of range(total): contiguous, in order of rank, as equal as can be."""
        return range(self.rank * total // self.count, (self.rank + 1) * total // self.count)

    def gather(self, items: Sequence[T]) -> list[T]:
        """The items of all processes, in order of rank, on every process."""
        if self.count == 1:
            return list(items)
        parts: list[Any] = [None] * self.count
        torch.distributed.all_gather_object(parts, list(items))
        return [item for part in parts for item in part]

    def sum(self, tensors: Sequence[Tensor]) -> None:
        """Add up each tensor over all processes, in place, in one exchange."""
        if self.count == 1 or not tensors:
            return
        # On this process's device, since NCCL exchanges no tensor of the CPU.
        flat = torch.cat([tensor.detach().reshape(-1) for tensor in tensors]).to(self.device)
        torch.distributed.all_reduce(flat)
        start = 0
        for tensor in tensors:
            tensor.copy_(flat[start : start + tensor.numel()].view_as(tensor))
            start += tensor.numel()

    def any(self, flag: bool) -> bool:
        """Whether any process raised the flag."""
        return any(self.gather([flag]))

    def wait(self) -> None:
        """Wait for the others."""
        self.accelerator.wait_for_everyone()


def leave() -> None:
    """Take leave of the other processes at the end of a program, whatever its end.

    Gloo's threads must be gone before the interpreter is, or they now and then abort it.
    """
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
        gc.collect()  # the group itself goes with the last object that refers to it
