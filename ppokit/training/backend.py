"""Who owns the trained weights: everything that reads, differentiates or moves them goes through a backend.

`ReplicatedBackend` keeps all weights on every process, and adds up the processes' gradients. A sharded one
would implement the same protocol.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from ppokit.data.batches import TokenBatch
from ppokit.distributed import Processes
from ppokit.models.logprobs import Entropy
from ppokit.models.roles import ModelRoles
from ppokit.training.optimizer import MasterWeights

Forward = tuple[Tensor | None, Tensor | None, Tensor | None]
"""Log-probabilities, entropies and values of a batch's response tokens, [b,R] each, float32, 0 on padding."""


class Backend(Protocol):
    """The trained weights with their optimizer. Every process makes the same calls in the same order."""

    @property
    def steps(self) -> int:
        """Optimizer steps taken by this object, less those that were rolled back."""
        ...

    @property
    def bytes(self) -> int:
        """What weights, gradients and moments take, beside the model's own parameters."""
        ...

    def forward(
        self, batch: TokenBatch, *, policy: bool, value: bool, temperature: float, entropy: Entropy
    ) -> Forward:
        """What the policy and the value function, or one of them, say of a batch, with gradient."""
        ...

    def backward(self, loss: Tensor) -> Tensor:
        """Add a scalar loss's gradients to those so far; bool scalar: are all finite on this process."""
        ...

    def clip(self, max_norm: float) -> float:
        """Add up the processes' gradients, scale them down to a norm, and return the norm before that."""
        ...

    def step(self, learning_rate: float) -> None:
        """One optimizer step; then the model computes with the new weights, and the gradients are gone."""
        ...

    def zero(self) -> None:
        """Discard all gradients."""
        ...

    def hash(self, chosen: Callable[[str], bool]) -> str:
        """SHA-256 over the chosen weights, by name."""
        ...

    def state(self) -> Mapping[str, Tensor]:
        """The trained weights and the optimizer's moments: `weights/NAME`, `exp_avg/NAME`, ..."""
        ...

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Take back what `state` gave.

        Raises:
            KeyError: a weight is missing.
            ValueError: a weight is unknown, or of another shape.
        """
        ...

    def rollback_on_error(self) -> AbstractContextManager[None]:
        """Take back every step made inside if an error ends it."""
        ...

    def save_policy(self, folder: Path) -> None:
        """Write the policy into a folder: a PEFT adapter, or the whole model without LoRA."""
        ...


class ReplicatedBackend(MasterWeights):
    """All weights on every process.

    Args:
        roles: the model whose `trainable` parameters are owned.
        weight_decay: AdamW's.
    """

    def __init__(self, roles: ModelRoles, processes: Processes, *, weight_decay: float) -> None:
        super().__init__(roles.trainable, weight_decay=weight_decay)
        self.roles, self.processes = roles, processes

    def forward(
        self, batch: TokenBatch, *, policy: bool, value: bool, temperature: float, entropy: Entropy
    ) -> Forward:
        if policy and value:
            return self.roles.logprobs_and_values(batch, temperature=temperature, entropy=entropy)
        if policy:
            return *self.roles.logprobs(batch, "policy", temperature=temperature, entropy=entropy), None
        return None, None, self.roles.values(batch)

    def backward(self, loss: Tensor) -> Tensor:
        if loss.requires_grad:
            loss.backward()  # type: ignore[no-untyped-call]
        return self.finite()

    def clip(self, max_norm: float) -> float:
        gradients = self.gradients()
        self.processes.sum(gradients)
        norm = float(torch.stack(torch._foreach_norm(gradients, 2, torch.float64)).norm())
        if norm > max_norm:
            torch._foreach_mul_(gradients, max_norm / norm)
        return norm

    def step(self, learning_rate: float) -> None:
        super().step(learning_rate)
        self.zero()

    def save_policy(self, folder: Path) -> None:
        self.roles.save_policy(folder)
