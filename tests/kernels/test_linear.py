"""Linear layers that multiply the other way round: the same numbers, in the places where they may."""

from __future__ import annotations

import copy
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ppokit.kernels import linear
from ppokit.kernels.linear import MOST


class Model(nn.Module):
    """Some layers in the clothes of a causal LM; by `rows`, one that asks for its numbers in rows."""

    def __init__(self, bias: bool = False, rows: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.rows = nn.Embedding(40, 24), rows
        self.low, self.head = nn.Linear(24, 24, bias=bias), nn.Linear(24, 40, bias=False)
        self.device, self.dtype = torch.device("cpu"), torch.float32

    def get_input_embeddings(self) -> nn.Embedding:
        return self.embed

    def forward(self, input_ids: Tensor, use_cache: bool = False) -> Any:
        states = self.low(self.embed(input_ids))
        if self.rows:
            states = torch.view_as_real(torch.view_as_complex(states.unflatten(-1, (-1, 2)))).flatten(-2)
        return SimpleNamespace(logits=self.head(states))


def pair() -> tuple[nn.Linear, nn.Linear]:
    """A layer as it is, and the same one fused."""
    fused = Model()
    assert linear.install(fused)
    return Model().head, fused.head


@pytest.mark.parametrize("shape", [(5, 1, 24), (3, 7, 24), (1, 24), (MOST + 1, 24), (0, 24), (2, 3, 4, 24)])
def test_the_same_numbers_and_shapes(shape: tuple[int, ...]) -> None:
    plain, fused = pair()
    x = torch.randn(shape)
    with torch.no_grad():
        torch.testing.assert_close(fused(x), plain(x), atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(fused(fused(x)[..., :24]), plain(plain(x)[..., :24]), atol=1e-5, rtol=1e-5)


def test_it_takes_the_other_way_where_it_may(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a graph, in float32, for few tokens."""
    taken: list[str] = []
    _, fused = pair()
    real = nn.functional.linear
    monkeypatch.setattr(linear.nn.functional, "linear", lambda *a: taken.append("plain") or real(*a))
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
    _, fused = pair()
    other = copy.deepcopy(fused)
    with torch.no_grad():
        other.weight.zero_()
        x = torch.randn(4, 24)
        assert other(x).abs().max() == 0
        assert fused(x).abs().max() > 0.1


def test_a_bias_keeps_the_layer_as_it_is() -> None:
    model = Model(bias=True)
    assert linear.install(model)
    assert "forward" not in vars(model.low)
    assert "forward" in vars(model.head)


def test_a_model_that_asks_for_rows_stays_as_it_is() -> None:
    model = Model(rows=True)
    assert not linear.install(model)
    assert not any("forward" in vars(module) for module in (model.low, model.head))


def test_other_hardware_stays_as_it_is() -> None:
    model = Model()
    model.dtype = torch.bfloat16
    assert not linear.install(model)
    assert "forward" not in vars(model.head)
