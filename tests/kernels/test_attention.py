"""Short attention against PyTorch's own, in values and gradients, and where it may not stand in."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from ppokit.kernels.attention import NAME, short_attention, short_attention_fits
from ppokit.models.loading import find_model, load_model


@pytest.mark.parametrize(("heads", "key_heads"), [(4, 4), (6, 2), (3, 1)])
def test_equals_scaled_dot_product_attention(heads: int, key_heads: int) -> None:
    torch.manual_seed(0)
    shapes = [(2, heads, 5, 8), (2, key_heads, 5, 8), (2, key_heads, 5, 8)]
    inputs = [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]
    mask = torch.full((5, 5), float("-inf"), dtype=torch.float64).triu(1)[None, None]
    came, _ = short_attention(None, *inputs, mask, scaling=0.3)
    expected = scaled_dot_product_attention(*inputs, is_causal=True, scale=0.3, enable_gqa=True).transpose(
        1, 2
    )
    assert torch.allclose(came, expected, atol=1e-12)
    weights = torch.randn_like(came)
    ours = torch.autograd.grad((came * weights).sum(), inputs)
    theirs = torch.autograd.grad((expected * weights).sum(), inputs)
    for mine, other in zip(ours, theirs, strict=True):
        assert torch.allclose(mine, other, atol=1e-12)


@pytest.mark.parametrize("odd", [{"softcap": 30.0}, {"s_aux": torch.zeros(4)}])
def test_refuses_caps_and_sinks(odd: dict[str, object]) -> None:
    x = torch.zeros(1, 1, 2, 4)
    with pytest.raises(ValueError, match="caps or sinks"):
        short_attention(None, x, x, x, torch.zeros(1, 1, 2, 2), **odd)  # type: ignore[arg-type]


def test_fits_a_llama_and_leaves_its_attention_as_it_was(stories260k: Path) -> None:
    model = load_model(find_model(str(stories260k)), torch.float32, torch.device("cpu"))
    assert short_attention_fits(model)
    assert model.config._attn_implementation == "sdpa"
    ids = torch.arange(5, 25)[None]
    with torch.no_grad():
        expected = model(ids).logits
        model.set_attn_implementation(NAME)
        assert torch.allclose(model(ids).logits, expected, atol=1e-4)


def test_does_not_fit_where_the_results_differ(stories260k: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = load_model(find_model(str(stories260k)), torch.float32, torch.device("cpu"))

    def capped(*inputs: torch.Tensor, **options: object) -> tuple[torch.Tensor, None]:
        out, _ = short_attention(*inputs, **options)  # type: ignore[arg-type]
        return out.tanh() * 0.5, None

    monkeypatch.setattr("ppokit.kernels.attention.short_attention", capped)
    assert not short_attention_fits(model)
