"""Jitter: results move by the last bit of their dtype, and everything else is left alone."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from ppokit.models.jitter import jittered


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_each_result_moves_by_up_to_half_of_its_last_bit(dtype: torch.dtype) -> None:
    """From 1 to 2 the last bit is the dtype's precision: of numbers at 1.5, every third moves by it."""
    model, ones = nn.Identity(), torch.full((1000,), 1.5, dtype=dtype)
    with jittered(model):
        moved = model(ones)
    eps = torch.finfo(dtype).eps
    assert moved.dtype == dtype
    assert 0.2 * eps < float((moved - ones).float().std()) < 0.8 * eps
    assert float((moved - ones).abs().max()) <= 1.01 * eps
    assert torch.equal(model(ones), ones), "only inside"


def test_the_same_each_time_and_no_generator_moves() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 2)).to(torch.bfloat16)
    x, before = torch.ones(3, 4, dtype=torch.bfloat16), torch.get_rng_state()
    with torch.no_grad(), jittered(model):
        one = model(x)
    with torch.no_grad(), jittered(model):
        assert torch.equal(model(x), one)
    assert torch.equal(torch.get_rng_state(), before)


def test_what_is_no_tensor_of_real_numbers_is_left_alone() -> None:
    class Pair(nn.Module):
        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, int]:
            return x, 3

    ids = torch.arange(4)
    for model, given, expected in ((Pair(), ids, (ids, 3)), (nn.Identity(), ids, ids)):
        with jittered(model):
            result = model(given)
        assert str(result) == str(expected)


def test_an_error_inside_takes_it_off() -> None:
    model = nn.Identity()
    with pytest.raises(ValueError, match="inside"), jittered(model):
        raise ValueError("inside")
    assert torch.equal(model(torch.ones(50)), torch.ones(50))
