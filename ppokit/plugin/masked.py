"""Means and whitening over real tokens, and numbers wide enough for them.

Every mask is True on a real token. What stands on padding changes nothing, not even a NaN.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from torch import Tensor

Variance = Literal["sample", "population"]


def upcast(x: Tensor) -> Tensor:
    """x in float32 where it is narrower: bfloat16 cannot count beyond 256."""
    return x.float() if x.dtype.itemsize < 4 else x


def masked_mean(x: Tensor, mask: Tensor) -> Tensor:
    """Mean of x over the True positions of mask; 0 where there is none. Scalar."""
    return x.where(mask, x.new_zeros(())).sum() / mask.sum().clamp(min=1)


def masked_variance(x: Tensor, mask: Tensor, *, variance: Variance = "sample") -> Tensor:
    """Variance of x over the True positions: divided by n - 1 (`sample`) or n (`population`)."""
    squares = _centered(x, mask).square().sum()
    count = mask.sum() - (1 if variance == "sample" else 0)
    return squares / count.clamp(min=1)


def masked_whiten(
    x: Tensor, mask: Tensor, *, center: bool = True, variance: Variance = "sample", eps: float = 1e-8
) -> Tensor:
    """x with variance 1, and mean 0 if `center`, over the True positions; 0 elsewhere.

        y = (x - mean) / sqrt(var + eps), plus the mean again if not `center`

    Ziegler et al. 2019, arXiv:1909.08593, whose code uses the population variance.
    """
    whitened = _centered(x, mask) / (masked_variance(x, mask, variance=variance) + eps).sqrt()
    if not center:
        whitened = whitened + masked_mean(x, mask)
    return whitened.where(mask, x.new_zeros(()))


def _centered(x: Tensor, mask: Tensor) -> Tensor:
    """x minus its mean over the True positions; 0 elsewhere.

    Twice, since the mean of a long sum is rounded: else equal numbers would keep a rest, which
    whitening would amplify.
    """
    once = x - masked_mean(x, mask)
    return (once - masked_mean(once, mask)).where(mask, x.new_zeros(()))
