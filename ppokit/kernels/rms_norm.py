"""RMSNorm that keeps only its input for the backward pass, and passes over it less often.

    y = w n,   n = x r,   r = (mean(x^2) + eps)^(-1/2)
    dL/dx = r (h - n mean(h n)),   h = w dL/dy;      dL/dw = sum over tokens of n dL/dy

Zhang and Sennrich 2019, arXiv:1910.07467, eq. 4. The forward pass rounds where transformers' own does, and
gives its bits; it keeps x, where autograd would keep two more tensors of that size, in float32.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ppokit.kernels.patching import is_patched, patch, patched, unpatch

name = "rms_norm"


def install(model: nn.Module) -> bool:
    """Let the model's RMSNorms run as above, those whose bits it gives."""
    for module in model.modules():
        eps = getattr(module, "variance_epsilon", None)
        is_norm = type(module).__name__.endswith("RMSNorm") and isinstance(eps, float)
        if is_norm and not is_patched(module) and _agrees(module):
            patch(module, _forward)
    return bool(patched(model, _forward))


def remove(model: nn.Module) -> None:
    """Give the norms their own forward back."""
    unpatch(model, _forward)


class _RMSNorm(torch.autograd.Function):
    """x: [...,H], weight: [H]; returns [...,H] in the dtype of x."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        upcast = x.float()
        scale = upcast.square().mean(dim=-1, keepdim=True).add_(eps).rsqrt_()
        ctx.save_for_backward(x, weight, scale)
        return (upcast * scale).to(x.dtype).mul_(weight)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = grads
        x, weight, scale = ctx.saved_tensors
        normed = x.float() * scale
        grad_weight = None
        if ctx.needs_input_grad[1]:
            grad_weight = (grad.float() * normed).flatten(0, -2).sum(dim=0).to(weight.dtype)
        grad_x = None
        if ctx.needs_input_grad[0]:
            h = (grad * weight).float()
            mean = (h * normed).mean(dim=-1, keepdim=True)
            grad_x = h.addcmul_(normed, mean, value=-1).mul_(scale).to(x.dtype)
        return grad_x, grad_weight, None


@torch.no_grad()
def _agrees(module: Any) -> bool:
    """Some architectures add 1 to the weight, or norm in another order."""
    weight = getattr(module, "weight", None)
    if weight is None:
        return False
    probe = torch.linspace(-3, 5, 2 * len(weight), device=weight.device).view(2, -1).to(weight.dtype)
    actual = _RMSNorm.apply(probe, weight, module.variance_epsilon)  # type: ignore[no-untyped-call]
    return torch.equal(module(probe), actual)


def _forward(module: Any, hidden_states: Tensor) -> Tensor:
    if hidden_states.dtype != module.weight.dtype:  # transformers' own then gives the wider one
        own: Tensor = type(module).forward(module, hidden_states)
        return own
    normed: Tensor = _RMSNorm.apply(  # type: ignore[no-untyped-call]
        hidden_states, module.weight, module.variance_epsilon
    )
    return normed
