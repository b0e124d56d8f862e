"""Rounding of merged weights to 16 bits, by which changes that are smaller than their last bit are not lost.

    round(x) = one of the two neighbours of x, away from 0 with the probability (|x| - |lower|) / step

so that rounding errors of a weight's numbers have the mean 0. To the nearest, what an adapter adds to a
bfloat16 weight is lost wherever it is less than half of a step, which is up to 1/256 of the number: at first
nearly everywhere.

Stochastic rounding: Gupta et al. 2015, arXiv:1502.02551, section 2.1. What is drawn is the same at each call,
and so is the result for the same weights.
"""

from __future__ import annotations

import torch
from torch import Tensor

_LESS = {torch.bfloat16: 16, torch.float16: 13}
"""By how many bits the mantissa is shorter than that of float32."""


def rounded(x: Tensor, dtype: torch.dtype) -> Tensor:
    """x in another dtype; numbers that it has stay as they are.

    Args:
        x: float32, of any shape; it is overwritten.
        dtype: bfloat16, float16, or another, to which x is converted as usual.
    """
    if dtype not in _LESS:
        return x.to(dtype)
    less = _LESS[dtype]
    bits = x.view(torch.int32)
    # A carry out of the bits that go is the step away from 0, in the exponent too. NaN stays NaN.
    bits += _draws(x.shape, x.device).bitwise_right_shift_(16 - less)
    bits &= -1 << less
    return x.to(dtype)


def _draws(shape: torch.Size, device: torch.device) -> Tensor:
    """Uniform in 0..65535, any two independent: sums modulo 65536 of a draw per row, one per column etc."""
    generator = torch.Generator().manual_seed(0)
    total = torch.zeros(shape, dtype=torch.int32, device=device)
    for dim, size in enumerate(shape):
        own = torch.randint(1 << 16, (size,), generator=generator, dtype=torch.int32)
        total += own.to(device).view(-1, *[1] * (len(shape) - dim - 1))
    return total.bitwise_and_((1 << 16) - 1)
