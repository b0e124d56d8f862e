"""fp32 master weights, their gradients and AdamW, whatever the dtype that the model computes in.

Micikevicius et al. 2018, arXiv:1710.03740: the model computes with low-precision copies; gradients of
all micro-batches add up in fp32, and the update is applied to the fp32 master_weights, so that steps
smaller than bf16's resolution are not lost.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class MasterWeights:
    """Master weights of some parameters, with their optimizer.

    Args:
        params: what trains, by name. A float32 parameter is its own master.
        weight_decay: AdamW's (Loshchilov and Hutter 2019, arXiv:1711.05101).
    """

    def __init__(self, params: Mapping[str, nn.Parameter], *, weight_decay: float) -> None:
        self.params = dict(params)
        self.weights: dict[str, Tensor] = {}
        for name, param in self.params.items():
            if param.dtype == torch.float32:
                self.weights[name] = param
            else:
                master = param.detach().float()
                self.weights[name] = master
                param.register_post_accumulate_grad_hook(_add_into(master))  # type: ignore[no-untyped-call]
        self.steps = 0
        """Optimizer steps taken by this object."""
        self.optimizer = torch.optim.AdamW(
            list(self.weights.values()), lr=0.0, weight_decay=weight_decay, fused=True
        )

    def zero(self) -> None:
        """Forget all gradients."""
        for name, param in self.params.items():
            param.grad = None
            self.weights[name].grad = None

    def gradients(self) -> list[Tensor]:
        """One gradient a master, in the order of the names; zeros where none arrived."""
        for weight in self.weights.values():
            if weight.grad is None:
                weight.grad = torch.zeros_like(weight)
        return [weight.grad for weight in self.weights.values() if weight.grad is not None]

    def finite(self) -> Tensor:
        """Whether every gradient so far is finite: a bool scalar on their device."""
        grads = [weight.grad for weight in self.weights.values() if weight.grad is not None]
        if not grads:
            return next(iter(self.weights.values())).new_ones((), dtype=torch.bool)
        return torch.stack(torch._foreach_norm(grads, 2, torch.float64)).isfinite().all()

    def step(self, learning_rate: float) -> None:
        """One AdamW step, then the model's copies follow the master_weights."""
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        self.steps += 1
        self.optimizer.step()
        self.copy_to_model()

    @torch.no_grad()
    def copy_to_model(self) -> None:
        """Copy the master_weights into the parameters that the model computes with."""
        for name, param in self.params.items():
            if self.weights[name] is not param:
                param.copy_(self.weights[name])

    def hash(self, chosen: Callable[[str], bool]) -> str:
        """SHA-256 over the chosen master_weights, by name."""
        digest = hashlib.sha256()
        for name, weight in self.weights.items():
            if chosen(name):
                digest.update(name.encode())
                digest.update(weight.detach().contiguous().cpu().numpy().tobytes())
        return digest.hexdigest()

    @property
    def bytes(self) -> int:
        """What master_weights, gradients and moments take in all, beside the model's own parameters."""
        total = 0
        for name, weight in self.weights.items():
            copies = 3 if weight is self.params[name] else 4
            total += copies * 4 * weight.numel()
        return total

    def state(self) -> dict[str, Tensor]:
        """MasterWeights and moments as flat tensors: `weights/NAME`, `exp_avg/NAME`, ..."""
        out = {f"weights/{name}": weight.detach() for name, weight in self.weights.items()}
        for name, weight in self.weights.items():
            for key, value in self.optimizer.state.get(weight, {}).items():
                out[f"{key}/{name}"] = value
        return out

    @torch.no_grad()
    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Take back what `state` gave.

        Raises:
            KeyError: a weight is missing.
            ValueError: a weight is unknown, or of another shape.
        """
        known = {f"weights/{name}" for name in self.weights}
        unknown = {key for key in state if key.startswith("weights/")} - known
        if unknown:
            raise ValueError(f"unknown weight {sorted(unknown)[0]}")
        for name, weight in self.weights.items():
            saved = state[f"weights/{name}"]
            if saved.shape != weight.shape:
                raise ValueError(f"{name} has shape {list(saved.shape)}; expected {list(weight.shape)}")
            weight.copy_(saved)
            moments = {}
            for key in ("step", "exp_avg", "exp_avg_sq"):
                if f"{key}/{name}" in state:
                    # The step too: the fused optimizer counts on the weights' device.
                    moments[key] = state[f"{key}/{name}"].clone().to(weight.device)
            self.optimizer.state.pop(weight, None)
            if moments:
                self.optimizer.state[weight] = moments
        self.copy_to_model()

    @contextmanager
    def rollback_on_error(self) -> Iterator[None]:
        """Take back every step made inside if an error ends it; costs a copy of weights and moments."""
        before = {key: tensor.detach().to("cpu", copy=True) for key, tensor in self.state().items()}
        steps = self.steps
        try:
            yield
        except BaseException:
            self.zero()
            self.load_state(before)
            self.steps = steps
            raise


def _add_into(master: Tensor):  # type: ignore[no-untyped-def]
    """A hook that moves a parameter's fresh gradient into its master's, in fp32."""

    def hook(param: Tensor) -> None:
        assert param.grad is not None
        if master.grad is None:
            master.grad = param.grad.float()
        else:
            master.grad += param.grad
        param.grad = None

    return hook
