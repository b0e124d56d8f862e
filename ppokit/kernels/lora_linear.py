"""LoRA layers in fewer passes over memory than peft's own forward takes.

    y = x W' + s (x A') B',     s = alpha / r

Hu et al. 2021, arXiv:2106.09685, eq. 3. The sums are inside the last matrix products, forward and backward,
where peft passes three more times over the layer's output.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ppokit.kernels.patching import is_patched, patch, patched, unpatch

name = "lora_linear"


@torch.no_grad()
def install(model: nn.Module) -> bool:
    """Let plain LoRA layers on linear layers without a bias run as above; the base's weights are frozen.

    Layers that dropout would act on in training mode, of another kind or with a bias keep peft's forward.
    """
    for module in model.modules():
        if hasattr(module, "lora_A") and not is_patched(module) and _is_plain(module) and _agrees(module):
            patch(module, _forward)
    return bool(patched(model, _forward))


def remove(model: nn.Module) -> None:
    """Give the layers peft's forward back."""
    unpatch(model, _forward)


class LoraLinear(torch.autograd.Function):
    """x W' + s (x A') B', and its gradient into x, A and B.

    x: [N,in], weight: [out,in], a: [r,in], b: [out,r]; returns [N,out]. The weight is frozen.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, a: Tensor, b: Tensor, scale: float) -> Tensor:
        low = x @ a.T
        ctx.save_for_backward(x, weight, a, b, low)
        ctx.scale = scale
        return (x @ weight.T).addmm_(low, b.T, alpha=scale)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = grads
        x, weight, a, b, low = ctx.saved_tensors
        grad_low = (grad @ b).mul_(ctx.scale)
        grad_a = grad_low.T @ x if ctx.needs_input_grad[2] else None
        grad_b = (grad.T @ low).mul_(ctx.scale) if ctx.needs_input_grad[3] else None
        grad_x = (grad @ weight).addmm_(grad_low, a) if ctx.needs_input_grad[0] else None
        return grad_x, None, grad_a, grad_b, None


def _is_plain(module: Any) -> bool:
    base = module.get_base_layer()
    return type(base) is nn.Linear and base.bias is None and not module.lora_variant


def _agrees(module: Any) -> bool:
    """Whether both ways agree, with numbers in the place of B's zeros."""
    adapter = module.active_adapters[0]
    if adapter not in module.lora_A:
        return True  # then this layer is its base layer
    weight = module.get_base_layer().weight
    x = torch.linspace(-1, 1, 2 * weight.shape[1], device=weight.device).view(2, -1).to(weight.dtype)
    b = module.lora_B[adapter].weight
    some = torch.linspace(-1, 1, b.numel(), device=b.device).view_as(b).to(b.dtype)
    numbers = {f"lora_B.{adapter}.weight": some}
    expected = torch.func.functional_call(module, numbers, (x,)).float()
    patch(module, _forward)
    try:
        actual = torch.func.functional_call(module, numbers, (x,)).float()
    finally:
        del module.forward
    tolerance = 0.05 if weight.dtype == torch.bfloat16 else 1e-4
    return bool((actual - expected).norm() <= tolerance * expected.norm())


def _forward(module: Any, x: Tensor) -> Tensor:
    flat = x.flatten(0, -2)
    adapter = None if module.disable_adapters else module.active_adapters[0]
    weight = module.get_base_layer().weight
    # A pre-trained adapter may cover fewer modules than the value function's, or others.
    if adapter in module.lora_A:
        a, b = module.lora_A[adapter].weight, module.lora_B[adapter].weight
        out = LoraLinear.apply(flat, weight, a, b, module.scaling[adapter])  # type: ignore[no-untyped-call]
    else:
        out = nn.functional.linear(flat, weight)
    shaped: Tensor = out.view(*x.shape[:-1], -1)
    return shaped
