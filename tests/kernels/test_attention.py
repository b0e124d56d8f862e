"""Short attention against PyTorch's own, in values and gradients, and where it may not stand in."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import transformers
from torch.nn.functional import scaled_dot_product_attention
from transformers import PreTrainedModel

from ppokit.kernels import attention
from ppokit.kernels.attention import LONGEST, short_attention
from ppokit.models.loading import find_model, load_model
from small_models import CACHE


@pytest.mark.parametrize(("heads", "key_heads"), [(4, 4), (6, 2), (3, 1)])
def test_equals_scaled_dot_product_attention(heads: int, key_heads: int) -> None:
    torch.manual_seed(0)
    shapes = [(2, heads, 5, 8), (2, key_heads, 5, 8), (2, key_heads, 5, 8)]
    inputs = [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]
    mask = torch.full((5, 5), float("-inf"), dtype=torch.float64).triu(1)[None, None]
    actual, _ = short_attention(None, *inputs, mask, scaling=0.3)
    expected = scaled_dot_product_attention(*inputs, is_causal=True, scale=0.3, enable_gqa=True).transpose(
        1, 2
    )
    assert torch.allclose(actual, expected, atol=1e-12)
    weights = torch.randn_like(actual)
    ours = torch.autograd.grad((actual * weights).sum(), inputs)
    theirs = torch.autograd.grad((expected * weights).sum(), inputs)
    for mine, other in zip(ours, theirs, strict=True):
        assert torch.allclose(mine, other, atol=1e-12)


@pytest.mark.parametrize("odd", [{"softcap": 30.0}, {"s_aux": torch.zeros(4)}])
def test_refuses_caps_and_sinks(odd: dict[str, object]) -> None:
    x = torch.zeros(1, 1, 2, 4)
    with pytest.raises(ValueError, match="caps or sinks"):
        short_attention(None, x, x, x, torch.zeros(1, 1, 2, 2), **odd)  # type: ignore[arg-type]


def llama(checkpoint: Path) -> PreTrainedModel:
    return load_model(find_model(str(checkpoint)), torch.float32, torch.device("cpu"))


@pytest.mark.parametrize("tokens", [20, LONGEST, LONGEST + 1])
def test_a_llama_gives_the_numbers_of_its_own(tiny_model: Path, tokens: int) -> None:
    """Short sequences by the kernel, longer ones by PyTorch's, which gives the same bits."""
    model = llama(tiny_model)
    ids = (torch.arange(2 * tokens) % 400 + 5).view(2, -1)
    with torch.no_grad():
        expected = model(ids).logits
        assert attention.install(model)
        actual = model(ids).logits
        torch.testing.assert_close(actual, expected, atol=1e-4, rtol=1e-4)
        assert torch.equal(actual, expected) == (tokens > LONGEST)
        attention.remove(model)
        assert torch.equal(model(ids).logits, expected)


def test_padded_rows_and_a_cache_are_pytorchs(tiny_model: Path) -> None:
    """Each row has a mask of its own there, which the kernel cannot follow."""
    model = llama(tiny_model)
    ids = torch.tensor([[0, 0, 5, 6], [7, 8, 9, 10]])
    mask = torch.tensor([[0, 0, 1, 1], [1, 1, 1, 1]])
    positions = (mask.cumsum(-1) - 1).clamp(min=0)

    def run() -> tuple[torch.Tensor, torch.Tensor]:
        first = model(input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=True)
        grown = torch.cat([mask, mask[:, -1:]], dim=1)
        following = model(
            input_ids=ids[:, :1],
            attention_mask=grown,
            position_ids=positions[:, -1:] + 1,
            **{CACHE: first[CACHE]},
        )
        return first.logits, following.logits

    with torch.no_grad():
        expected = run()
        assert attention.install(model)
        actual = run()
    for mine, other in zip(actual, expected, strict=True):
        assert torch.equal(mine, other)


def test_does_not_fit_where_the_results_differ(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = llama(tiny_model)

    def capped(*inputs: torch.Tensor, **options: object) -> tuple[torch.Tensor, None]:
        out, _ = short_attention(*inputs, **options)  # type: ignore[arg-type]
        return out.tanh() * 0.5, None

    monkeypatch.setattr("ppokit.kernels.attention.short_attention", capped)
    assert not attention.install(model)
    assert model.config._attn_implementation == "sdpa"


@pytest.mark.skipif(not hasattr(transformers, "DeepseekV32Config"), reason="not in this transformers")
def test_one_that_selects_keys_keeps_its_own() -> None:
    """Its code masks keys for attentions whose name it knows; up to `index_topk` tokens it masks none."""
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "num_key_value_heads": 4}
    heads = {
        "kv_lora_rank": 16,
        "q_lora_rank": 16,
        "qk_rope_head_dim": 8,
        "qk_nope_head_dim": 8,
        "v_head_dim": 8,
    }
    experts = {"intermediate_size": 64, "first_k_dense_replace": 1, "index_head_dim": 16, "index_n_heads": 4}
    config = transformers.DeepseekV32Config(vocab_size=128, head_dim=8, **sizes, **heads, **experts)
    assert config.index_topk > 100
    assert not attention.install(transformers.AutoModelForCausalLM.from_config(config).eval())


def test_another_implementation_is_left_alone(tiny_model: Path) -> None:
    model = llama(tiny_model)
    model.set_attn_implementation("eager")
    assert not attention.install(model)
    attention.remove(model)
    assert model.config._attn_implementation == "eager"
