"""Rounding to 16 bits: only neighbours, nothing lost in the mean, and what needs no rounding left alone."""

from __future__ import annotations

import pytest
import torch

from ppokit.models.rounding import rounded

DTYPES = [torch.bfloat16, torch.float16]


def weights(dtype: torch.dtype) -> torch.Tensor:
    return torch.randn(300, 400, generator=torch.Generator().manual_seed(1)).to(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_what_the_dtype_has_stays(dtype: torch.dtype) -> None:
    own = weights(dtype)
    assert torch.equal(rounded(own.float(), dtype), own)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_quarter_of_a_step_is_taken_by_a_quarter_of_the_numbers(dtype: torch.dtype) -> None:
    """From 1 to 2 a step is the dtype's precision; below 1, where a step is half of it, too."""
    step = torch.finfo(dtype).eps
    for start, size in ((1.0, step), (-1.5, -step), (0.5, step / 2), (1.0 - step / 2, step / 2)):
        result = rounded(torch.full((500, 700), start + size / 4), dtype).float()
        moved = result == start + size
        assert bool((moved | (result == start)).all())
        assert float(moved.float().mean()) == pytest.approx(0.25, abs=0.01)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(120_000,), (300, 400), (3, 200, 200)])
def test_small_changes_are_not_lost(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    """Of changes of a tenth of a step, to the nearest nothing is left; here all of it, in the mean."""
    generator = torch.Generator().manual_seed(2)
    own = (1 + torch.rand(shape, generator=generator)).to(dtype).float()
    change = torch.finfo(dtype).eps / 10 * torch.randn(shape, generator=generator).sign()

    def kept(result: torch.Tensor) -> float:
        return float(((result.float() - own) * change).sum() / change.square().sum())

    assert kept((own + change).to(dtype)) == pytest.approx(0, abs=0.01)
    assert kept(rounded(own + change, dtype)) == pytest.approx(1, abs=0.03)


def test_rows_and_columns_are_rounded_independently() -> None:
    """Of two numbers in a row, or in a column, both move as often as chance lets them: 1/4 * 1/4."""
    x = torch.full((600, 600), 1 + torch.finfo(torch.bfloat16).eps / 4)
    moved = (rounded(x, torch.bfloat16) > 1).float()
    assert float((moved[:, 0::2] * moved[:, 1::2]).mean()) == pytest.approx(1 / 16, abs=0.01)
    assert float((moved[0::2] * moved[1::2]).mean()) == pytest.approx(1 / 16, abs=0.01)


def test_the_same_weights_are_rounded_the_same_and_no_generator_moves() -> None:
    before = torch.get_rng_state()
    x = torch.randn(64, 64, generator=torch.Generator().manual_seed(3))
    assert torch.equal(rounded(x.clone(), torch.bfloat16), rounded(x.clone(), torch.bfloat16))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("dtype", DTYPES)
def test_what_is_no_number_stays_so(dtype: torch.dtype) -> None:
    inf, nan = float("inf"), float("nan")
    x = torch.tensor([nan, -nan, inf, -inf, 0.0, -0.0]).repeat(50)
    assert torch.equal(
        rounded(x.clone(), dtype).float().nan_to_num(nan=7.0, posinf=8.0, neginf=9.0),
        x.nan_to_num(nan=7.0, posinf=8.0, neginf=9.0),
    )


def test_float32_is_not_rounded() -> None:
    x = torch.randn(5, 5, generator=torch.Generator().manual_seed(4))
    assert torch.equal(rounded(x.clone(), torch.float32), x)
