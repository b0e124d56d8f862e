"""Linear layers that multiply the other way round: the same numbers, in the places where they may."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from ppokit import linears
from ppokit.linears import MOST, fuse_linears


def layer(bias: bool = False) -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(24, 40, bias=bias)


@pytest.mark.parametrize("shape", [(5, 1, 24), (3, 7, 24), (1, 24), (MOST + 1, 24), (0, 24), (2, 3, 4, 24)])
def test_the_same_numbers_and_shapes(shape: tuple[int, ...]) -> None:
    plain, fused, x = layer(), layer(), torch.randn(shape)
    fuse_linears(fused)
    with torch.no_grad():
        torch.testing.assert_close(fused(x), plain(x), atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(fused(fused(x)[..., :24]), plain(plain(x)[..., :24]), atol=1e-5, rtol=1e-5)


def test_it_takes_the_other_way_where_it_may(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a graph, in float32, for few tokens."""
    taken: list[str] = []
    real = nn.functional.linear
    monkeypatch.setattr(linears.nn.functional, "linear", lambda *a: taken.append("plain") or real(*a))
    fused = layer()
    fuse_linears(fused)
    with torch.no_grad():
        fused(torch.randn(2, 1, 24))
        fused(torch.randn(MOST, 24))
    assert taken == []
    with torch.no_grad():
        fused(torch.randn(1, 24))
        fused(torch.randn(MOST + 1, 24))
        fused.bfloat16()(torch.randn(2, 24, dtype=torch.bfloat16))
    fused.float()(torch.randn(2, 24)).sum().backward()
    assert taken == ["plain"] * 4
    assert fused.weight.grad is not None


def test_a_copy_reads_its_own_weight() -> None:
    fused = layer()
    fuse_linears(fused)
    other = copy.deepcopy(fused)
    with torch.no_grad():
        other.weight.zero_()
        x = torch.randn(4, 24)
        assert other(x).abs().max() == 0
        assert fused(x).abs().max() > 0.1


def test_a_bias_keeps_the_layer_as_it_is() -> None:
    plain = layer(bias=True)
    fuse_linears(plain)
    assert "forward" not in vars(plain)
