"""What the tests of several losses share: ragged masks, and the core's masking of a loss."""

from __future__ import annotations

from collections.abc import Callable

import torch
from hypothesis import strategies as st
from torch import Tensor

NAN, INF = float("nan"), float("inf")


@st.composite
def cases(draw: st.DrawFn, count: int) -> tuple[list[Tensor], Tensor]:
    """`count` float64 tensors [B,R] and a mask [B,R]: gaps, single tokens and rows without any."""
    rows, columns = draw(st.integers(1, 4)), draw(st.integers(1, 6))
    bits = draw(st.lists(st.booleans(), min_size=rows * columns, max_size=rows * columns))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    scale = draw(st.sampled_from([0.01, 0.3, 3.0, 20.0]))
    tensors = [scale * torch.randn(rows, columns, generator=generator).double() for _ in range(count)]
    return tensors, torch.tensor(bits).reshape(rows, columns)


def after_masking(loss: Callable[[Tensor], Tensor], x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Losses of the real tokens, and d (their weighed sum) / dx there, as the core takes them."""
    x = x.detach().clone().requires_grad_()
    losses = loss(x)
    weights = torch.arange(1, x.numel() + 1).reshape(x.shape).to(losses.dtype) / x.numel()
    (losses.where(mask, losses.new_zeros(())) * weights).sum().backward()
    assert x.grad is not None
    return losses.detach()[mask], x.grad[mask]


def spoiled(x: Tensor, mask: Tensor, value: float) -> Tensor:
    """x with this value on padding."""
    return x.where(mask, torch.full_like(x, value))


def assert_padding_is_ignored(
    loss: Callable[..., Tensor],
    case: tuple[list[Tensor], Tensor],
    values: tuple[float, ...] = (NAN, INF),
    **tolerances: float,
) -> None:
    """Losses of real tokens, and their gradients in the first tensor, do not depend on values on padding."""
    tensors, mask = case
    expected = after_masking(lambda x: loss(x, *tensors[1:]), tensors[0], mask)
    for value in values:
        first, *others = (spoiled(x, mask, value) for x in tensors)
        result = after_masking(lambda x, others=others: loss(x, *others), first, mask)
        torch.testing.assert_close(result, expected, **tolerances)
