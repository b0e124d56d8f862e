"""What several processes share: the same calls in the same order on every one of them."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import wraps
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, Protocol, TypeVar

import torch
from torch import Tensor

from ppokit.errors import PluginError, PpokitError, TrainingError, in_one_paragraph

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
    """Collectives over the processes of an Accelerator; each method is free in a single process.

    Every exchange by `gather` can also carry what one process failed with: it then raises on all of them.
    """

    def __init__(self, accelerator: Accelerator) -> None:
        self.accelerator = accelerator
        self.rank: int = accelerator.process_index
        self.count: int = accelerator.num_processes
        self.is_main: bool = accelerator.is_main_process
        self.device: torch.device = accelerator.device
        self._failure: PpokitError | None = None  # of any process, since the outermost `together` began
        self._depth = 0

    def share(self, total: int) -> range:
        """This process's part of range(total): contiguous, in order of rank, as equal as can be."""
        return range(self.rank * total // self.count, (self.rank + 1) * total // self.count)

    def gather(self, items: Sequence[T]) -> list[T]:
        """The items of all processes, in order of rank, on every process.

        Raises:
            PpokitError: another process failed inside `together`.
        """
        if self.count == 1:
            return list(items)
        with self.together():
            parts = [] if self._failure is not None else self._exchange(list(items))
        return [item for part in parts for item in part]

    @contextmanager
    def together(self) -> Iterator[None]:
        """Where what is inside raises on one process, the others raise the same at their next `gather`.

        They need not be inside: every process makes the same exchanges, and the failed one takes part in its
        next one before it leaves.

        Raises:
            PpokitError: another process failed, also where what is inside caught it.
        """
        self._depth += 1
        try:
            yield
            if self._failure is not None:
                raise self._failure
        except Exception as error:
            if self.count > 1 and self._failure is None:
                kind = PluginError if isinstance(error, PluginError) else PpokitError
                text = str(error) if isinstance(error, PpokitError) else in_one_paragraph(error)
                with suppress(PpokitError):  # the others have gone
                    self._exchange([], (kind, text))
            raise
        finally:
            self._depth -= 1
            if self._depth == 0:
                self._failure = None

    def _exchange(
        self, items: list[Any], failure: tuple[type[PpokitError], str] | None = None
    ) -> list[list[Any]]:
        """The items of each process; the first failure of any becomes `_failure`."""
        parts: list[Any] = [None] * self.count
        try:
            torch.distributed.all_gather_object(parts, (items, failure))
        except RuntimeError as error:
            self._failure = TrainingError(f"the exchange with the other processes failed: {error}")
            raise self._failure from error
        failures = [failure for _, failure in parts if failure is not None]
        if failures:
            kind, text = failures[0]
            self._failure = kind(text)
        return [items for items, _ in parts]

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


class _OnProcesses(Protocol):
    @property
    def processes(self) -> Processes: ...


S = TypeVar("S", bound=_OnProcesses)
P = ParamSpec("P")


def ends_together(method: Callable[Concatenate[S, P], T]) -> Callable[Concatenate[S, P], T]:
    """A method that ends on every process where it raises on one: see `Processes.together`."""

    @wraps(method)
    def run(self: S, /, *args: P.args, **kwargs: P.kwargs) -> T:
        with self.processes.together():
            return method(self, *args, **kwargs)

    return run


def use_device(device: torch.device) -> None:
    """For a thread, which begins with the first GPU."""
    if device.type == "cuda":
        torch.cuda.set_device(device)


def destroy_process_group() -> None:
    """Leave the process group at the end of a program, whatever its end.

    Gloo's threads must be gone before the interpreter is, or they now and then abort it.
    """
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
        gc.collect()  # the group itself goes with the last object that refers to it
