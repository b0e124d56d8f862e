"""RMSNorm against transformers' own: the same bits forward, the same gradients, and where it stays away."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from transformers.models.gemma.modeling_gemma import GemmaRMSNorm
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from ppokit.kernels import rms_norm

H = 24


def both(dtype: torch.dtype) -> tuple[LlamaRMSNorm, LlamaRMSNorm]:
    """A plain norm, and one like it that runs fused."""
    torch.manual_seed(0)
    plain, fused = (LlamaRMSNorm(H, eps=1e-5).to(dtype) for _ in range(2))
    with torch.no_grad():
        plain.weight.copy_(torch.randn(H))
        fused.weight.copy_(plain.weight)
    assert rms_norm.install(nn.ModuleList([fused]))
    return plain, fused


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("size", [1e-4, 1.0, 100.0])
def test_forward_has_the_bits_of_transformers(dtype: torch.dtype, size: float) -> None:
    plain, fused = both(dtype)
    x = (torch.randn(3, 5, H) * size).to(dtype)
    assert torch.equal(fused(x), plain(x))


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-6), (torch.bfloat16, 0.01)])
def test_gradients_are_those_of_autograd(dtype: torch.dtype, bound: float) -> None:
    plain, fused = both(dtype)
    x = torch.randn(3, 5, H).to(dtype).requires_grad_()
    sent = torch.randn(3, 5, H).to(dtype)
    ours = torch.autograd.grad(fused(x), [x, fused.weight], sent)
    theirs = torch.autograd.grad(plain(x), [x, plain.weight], sent)
    for mine, other in zip(ours, theirs, strict=True):
        assert mine.dtype == other.dtype == dtype
        assert (mine - other).float().norm() <= bound * other.float().norm()


def test_gradient_by_finite_differences() -> None:
    """In float32, with steps large enough for its rounding."""
    _, fused = both(torch.float32)
    x = torch.randn(1, H, requires_grad=True)
    sent = torch.randn(1, H)
    (result,) = torch.autograd.grad((fused(x) * sent).sum(), x)
    for index in range(0, H, 5):
        step = torch.zeros(1, H)
        step[0, index] = 1e-2
        with torch.no_grad():
            slope = ((fused(x + step) - fused(x - step)) * sent).sum() / 2e-2
        assert result[0, index].item() == pytest.approx(slope.item(), abs=2e-3)


def test_a_frozen_weight_gets_no_gradient() -> None:
    _, fused = both(torch.float32)
    fused.weight.requires_grad_(False)
    x = torch.randn(2, H, requires_grad=True)
    fused(x).sum().backward()
    assert x.grad is not None
    assert fused.weight.grad is None


def test_an_input_of_another_dtype_is_left_to_transformers() -> None:
    plain, fused = both(torch.float32)
    x = torch.randn(2, H).bfloat16()
    assert fused(x).dtype == plain(x).dtype == torch.float32
    assert torch.equal(fused(x), plain(x))


def test_norms_with_other_rules_stay_as_they_are() -> None:
    """Gemma's multiplies by 1 + weight, and LayerNorm takes the mean away."""
    assert not rms_norm.install(nn.ModuleList([GemmaRMSNorm(H), nn.LayerNorm(H)]))


def test_a_look_alike_with_another_formula_stays_as_it_is() -> None:
    class OddRMSNorm(LlamaRMSNorm):
        def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
            return super().forward(hidden_states) + 1e-3

    bare = OddRMSNorm(H, eps=1e-5)
    bare.weight = None
    assert not rms_norm.install(nn.ModuleList([OddRMSNorm(H, eps=1e-5), bare]))


def test_a_deep_copy_reads_its_own_weight() -> None:
    _, fused = both(torch.float32)
    other = copy.deepcopy(fused)
    with torch.no_grad():
        other.weight.mul_(2)
    x = torch.randn(3, H)
    torch.testing.assert_close(other(x), 2 * fused(x))
