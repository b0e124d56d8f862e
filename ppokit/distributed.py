"""What several processes share: the same calls in the same order on every one of them."""

from __future__ import annotations

import gc
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor

from ppokit.errors import TrainingError

if TYPE_CHECKING:
    from accelerate import Accelerator

T = TypeVar("T")


def check_launch(environment: Mapping[str, str] = os.environ) -> None:
    """Refuse what an `accelerate launch` configuration asks for and ppokit would not do.

    Raises:
        TrainingError: it asks for sharding, mixed precision, compilation or accumulated gradients.
    """

    def asked(name: str) -> bool:
        return environment.get(f"ACCELERATE_{name}", "").lower() in ("1", "true", "yes", "y", "on", "t")

    sharded = (
        "every process holds and trains a whole copy of the weights; choose plain MULTI_GPU or MULTI_CPU"
    )
    reasons = {
        "FSDP": (asked("USE_FSDP"), sharded),
        "DeepSpeed": (asked("USE_DEEPSPEED"), sharded),
        "Megatron-LM": (asked("USE_MEGATRON_LM"), sharded),
        "a parallelism configuration": (asked("USE_PARALLELISM_CONFIG"), sharded),
        "mixed precision": (
            environment.get("ACCELERATE_MIXED_PRECISION", "no") != "no",
            "choose --mixed_precision no, and the base's dtype in the recipe (model.dtype)",
        ),
        "torch.compile (a dynamo backend)": (
            environment.get("ACCELERATE_DYNAMO_BACKEND", "no").lower() != "no",
            "choose no dynamo backend",
        ),
        "gradient accumulation": (
            environment.get("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "1") != "1",
            "leave it out, and set update.tokens_per_microbatch in the recipe",
        ),
    }
    for what, (wanted, advice) in reasons.items():
        if wanted:
            raise TrainingError(
                f"accelerate's configuration asks for {what}, which ppokit does not do: {advice}."
            )


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


def destroy_process_group() -> None:
    """Leave the process group at the end of a program, whatever its end.

    Gloo's threads must be gone before the interpreter is, or they now and then abort it.
    """
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
        gc.collect()  # the group itself goes with the last object that refers to it
