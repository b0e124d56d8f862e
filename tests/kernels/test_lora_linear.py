"""The fused LoRA layer against its formula by autograd."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ppokit.kernels.lora_linear import LoraLinear


def case(dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """x [7,5], W [4,5], A [2,5], B [4,2]."""
    torch.manual_seed(0)
    shapes = ((7, 5), (4, 5), (2, 5), (4, 2))
    x, weight, a, b = (torch.randn(shape, dtype=torch.float64).to(dtype) for shape in shapes)
    return x.requires_grad_(), weight, a.requires_grad_(), b.requires_grad_()


def test_by_hand() -> None:
    """x = [1, 2], W = [3, 4], A = [5, 6], B = [7], s = .5: 11 + .5 * 17 * 7 = 70.5.

    For a gradient of 2: into x 2 W + 2 * .5 * 7 * A = [41, 50], A 7 x = [7, 14], B 2 * .5 * 17 = 17.
    """
    x = torch.tensor([[1.0, 2.0]], requires_grad=True)
    a = torch.tensor([[5.0, 6.0]], requires_grad=True)
    b = torch.tensor([[7.0]], requires_grad=True)
    out = LoraLinear.apply(x, torch.tensor([[3.0, 4.0]]), a, b, 0.5)
    assert out.item() == 70.5
    into_x, into_a, into_b = torch.autograd.grad(2 * out.sum(), [x, a, b])
    assert into_x.tolist() == [[41.0, 50.0]]
    assert into_a.tolist() == [[7.0, 14.0]]
    assert into_b.item() == 17.0


def test_gradcheck() -> None:
    x, weight, a, b = case(torch.float64)
    assert torch.autograd.gradcheck(lambda x, a, b: LoraLinear.apply(x, weight, a, b, 0.7), (x, a, b))


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float64, 1e-12), (torch.bfloat16, 0.02)])
def test_equals_the_formula(dtype: torch.dtype, bound: float) -> None:
    x, weight, a, b = case(dtype)
    exact = [t.detach().double().requires_grad_(t.requires_grad) for t in (x, weight, a, b)]
    sent = torch.randn(7, 4, dtype=torch.float64).to(dtype)
    out = LoraLinear.apply(x, weight, a, b, 0.7)
    expected = exact[0] @ exact[1].T + 0.7 * (exact[0] @ exact[2].T) @ exact[3].T
    ours = [out, *torch.autograd.grad(out, [x, a, b], sent)]
    theirs = [expected, *torch.autograd.grad(expected, [exact[0], *exact[2:]], sent.double())]
    for mine, other in zip(ours, theirs, strict=True):
        assert mine.dtype == dtype
        assert (mine.double() - other).norm() <= bound * other.norm()


def test_the_first_layer_asks_for_no_gradient_of_its_input() -> None:
    x, weight, a, b = case(torch.float64)
    LoraLinear.apply(x.detach(), weight, a, b, 1.0).sum().backward()
    assert a.grad is not None
    assert b.grad is not None
    assert weight.grad is None
