"""Masked mean, variance and whitening: hand-worked numbers, identities, and padding that changes nothing."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ppokit.plugin.masked import masked_mean, masked_variance, masked_whiten

X = torch.tensor([[1.0, 2.0, 99.0], [6.0, -99.0, -99.0]])
MASK = torch.tensor([[True, True, False], [True, False, False]])


def test_mean_by_hand() -> None:
    assert masked_mean(X, MASK).item() == 3.0


def test_variance_by_hand() -> None:
    assert masked_variance(X, MASK).item() == 7.0  # (4 + 1 + 9) / 2
    assert masked_variance(X, MASK, variance="population").item() == pytest.approx(14 / 3)


def test_whitening_by_hand() -> None:
    expected = torch.tensor([[-2.0, -1.0, 0.0], [3.0, 0.0, 0.0]]) / math.sqrt(7)
    torch.testing.assert_close(masked_whiten(X, MASK), expected)


def test_whitening_without_centering_keeps_the_mean_and_zeroes_padding() -> None:
    whitened = masked_whiten(X, MASK, center=False)
    assert masked_mean(whitened, MASK).item() == pytest.approx(3.0)
    assert masked_variance(whitened, MASK).item() == pytest.approx(1.0)
    assert whitened[~MASK].tolist() == [0.0, 0.0, 0.0]


def test_nothing_real_gives_zeros() -> None:
    none = torch.zeros_like(MASK)
    assert masked_mean(X, none).item() == 0.0
    assert masked_variance(X, none).item() == 0.0
    assert masked_whiten(X, none).tolist() == torch.zeros_like(X).tolist()


def test_a_single_real_token_whitens_to_zero() -> None:
    one = torch.zeros_like(MASK)
    one[0, 1] = True
    assert masked_whiten(X, one).abs().max().item() == 0.0


@pytest.mark.parametrize("value", [0.1, 10.3, 1000.1, -12345.6])
def test_equal_numbers_whiten_to_zero_whatever_their_size(value: float) -> None:
    equal = torch.full((8, 100), value)
    assert masked_whiten(equal, torch.ones(8, 100, dtype=torch.bool)).abs().max().item() == 0.0


@pytest.mark.parametrize("rubbish", [math.nan, math.inf, -1e30])
def test_padding_changes_nothing_not_even_in_the_gradient(rubbish: float) -> None:
    filled = X.masked_fill(~MASK, rubbish).requires_grad_()
    torch.testing.assert_close(masked_mean(filled, MASK), masked_mean(X, MASK))
    torch.testing.assert_close(masked_variance(filled, MASK), masked_variance(X, MASK))
    for center in (True, False):
        whitened = masked_whiten(filled, MASK, center=center)
        torch.testing.assert_close(whitened, masked_whiten(X, MASK, center=center))
    masked_mean(filled, MASK).backward()
    torch.testing.assert_close(filled.grad, torch.tensor([[1.0, 1.0, 0.0], [1.0, 0.0, 0.0]]) / 3)


@given(
    seed=st.integers(0, 2**31),
    mask=st.lists(st.lists(st.booleans(), min_size=5, max_size=5), min_size=1, max_size=5),
    scale=st.sampled_from([0.1, 1.0, 100.0]),
    shift=st.sampled_from([0.0, 5.0, -300.0]),
    variance=st.sampled_from(["sample", "population"]),
)
@example(9907742, [[False, True, False, True, False]], 0.1, -300.0, "population")
@settings(deadline=None)
def test_a_whitened_batch_has_mean_0_and_variance_1(seed, mask, scale, shift, variance) -> None:
    real = torch.tensor(mask)
    noise = torch.randn(real.shape, generator=torch.Generator().manual_seed(seed))
    x = noise * scale + shift  # which rounds the noise, and so its variance
    whitened = masked_whiten(x, real, variance=variance)
    assert abs(masked_mean(whitened, real).item()) < 1e-5
    if real.sum() > 1:
        before = masked_variance(x.double(), real, variance=variance).item()
        after = masked_variance(whitened, real, variance=variance).item()
        assert after == pytest.approx(before / (before + 1e-8), abs=1e-2)  # 1, but for eps
    assert whitened[~real].abs().sum().item() == 0.0
