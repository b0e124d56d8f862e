"""Texts in one row: the numbers and gradients of texts in a row each, and padding where a model cannot."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import (
    BloomForCausalLM,
    Gemma2ForCausalLM,
    MambaForCausalLM,
    MistralForCausalLM,
    OPTForCausalLM,
)

from ppokit.data.batches import TokenBatch
from ppokit.errors import PpokitWarning
from ppokit.kernels import varlen
from ppokit.models.memory_audit import activation_bytes
from ppokit.models.roles import ModelRoles
from small_models import tiny, tiny_gpt2, tiny_llama
from small_roles import CPU, policy_params, randomize, roles_of, value_params

PROMPTS = [[1, 7, 8, 9], [5], [1, 33], [3] * 9]


def batch_of(*, packed: bool) -> TokenBatch:
    """Four texts; one token in the second response, and one at the end, are not the policy's own."""
    responses = torch.zeros(4, 6, dtype=torch.long)
    mask = torch.zeros(4, 6, dtype=torch.bool)
    for row, answer in enumerate([[10, 11, 12], [20, 21, 22, 23, 2], [40], [4, 5, 6]]):
        responses[row, : len(answer)] = torch.tensor(answer)
        mask[row, : len(answer)] = True
    own = mask.clone()
    own[1, 2] = own[0, 2] = False
    return TokenBatch.build(PROMPTS, responses, mask, CPU, own, packed=packed)


def numbers(roles: ModelRoles, batch: TokenBatch) -> tuple[list[Tensor], list[Tensor]]:
    """Of every role, and the gradients of a loss of them all."""
    with torch.no_grad():
        reference = roles.logprobs(batch, "reference", temperature=0.7)[0]
    logprobs, entropy, values = roles.logprobs_and_values(batch, temperature=0.7, entropy="gradient")
    roles.clear_cache()
    again = roles.values(batch)
    (logprobs.square() + entropy + values.square()).sum().backward()
    grads = [param.grad for param in roles.trainable.values() if param.grad is not None]
    for param in roles.trainable.values():
        param.grad = None
    return [reference, logprobs, entropy, values, again], grads


def check_same(own: tuple[list[Tensor], list[Tensor]], padded: tuple[list[Tensor], list[Tensor]]) -> None:
    for one, other in zip(own[0], padded[0], strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)
    for one, other in zip(own[1], padded[1], strict=True):
        assert (one - other).norm() <= 1e-5 * other.norm()


def mistral() -> Any:
    """Its window is shorter than the texts."""
    return tiny(MistralForCausalLM, vocab_size=64, num_key_value_heads=2, sliding_window=4)


def gemma2() -> Any:
    return tiny(
        Gemma2ForCausalLM,
        vocab_size=64,
        head_dim=16,
        num_key_value_heads=1,
        sliding_window=4,
        layer_types=None,
    )


@pytest.mark.parametrize(
    ("model", "changes"),
    [
        (lambda: tiny_llama(num_hidden_layers=4), {}),
        (lambda: tiny_llama(num_hidden_layers=4), {"activation_checkpointing": True}),
        (tiny_llama, {"lora": None, "value": "policy_trunk"}),
        (mistral, {"fast_paths": "off"}),
        (gemma2, {}),
        (tiny_gpt2, {}),
    ],
    ids=["llama", "checkpointing", "whole", "mistral", "gemma2", "gpt2"],
)
def test_numbers_are_those_of_padded_texts(model: Any, changes: dict[str, Any]) -> None:
    roles = roles_of(model(), layout="packed", **changes)
    assert roles.packed
    if roles.lora is not None:
        randomize(policy_params(roles), seed=2)
    randomize(value_params(roles))
    own, padded = (numbers(roles, batch_of(packed=packed)) for packed in (True, False))
    check_same(own, padded)


@pytest.mark.parametrize(
    "model",
    [
        lambda: tiny(BloomForCausalLM, vocab_size=64, n_head=2),
        lambda: tiny(MambaForCausalLM, num_hidden_layers=2, state_size=8, vocab_size=64),
        lambda: tiny(OPTForCausalLM, ffn_dim=64, vocab_size=64),
    ],
    ids=["positions-by-column", "a-state-along-the-row", "a-mask-without-positions"],
)
def test_a_model_that_reads_on_from_one_text_to_the_next_is_padded(model: Any) -> None:
    with pytest.warns(
        PpokitWarning, match=r"update\.layout: \w+ForCausalLM reads texts in one row otherwise"
    ):
        assert not roles_of(model(), layout="packed", lora=None, value=None).packed


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("spread", [0.2, 0.02], ids=["sharp", "flat"])
def test_texts_that_see_one_another_are_found(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, spread: float
) -> None:
    """By how much a text changes another that does see it, in 16 bits too, and where attention is flat."""
    model = tiny_llama(dtype=dtype, initializer_range=spread)
    assert roles_of(model, layout="packed", lora=None, value=None, reference=False).packed
    monkeypatch.setattr("transformers.masking_utils.find_packed_sequence_indices", lambda ids: None)
    with pytest.warns(PpokitWarning, match="reads texts in one row otherwise"):
        assert not roles_of(model, layout="packed", lora=None, value=None, reference=False).packed


def test_on_a_cpu_texts_are_padded_unless_asked() -> None:
    assert not roles_of(layout="auto").packed


def test_where_texts_stand_in_a_row() -> None:
    batch = batch_of(packed=True)
    assert batch.input_ids.tolist() == [
        [1, 7, 8, 9, 10, 11, 12, 5, 20, 21, 22, 23, 2, 1, 33, 40, *[3] * 9, 4, 5, 6]
    ]
    assert batch.row is not None
    assert batch.row.ends.tolist() == [0, 7, 13, 16, 28]
    assert batch.row.longest == 12
    assert batch.row.position_ids[0, [0, 6, 7, 12, 13, 16, 27]].tolist() == [0, 6, 0, 5, 0, 0, 11]
    # The states before 10 and 11, before 20, 21, 23 and 2, before 40, before 4, 5 and 6.
    assert batch.positions.tolist() == [3, 4, 7, 8, 10, 11, 14, 24, 25, 26]
    assert batch.targets.tolist() == [10, 11, 20, 21, 23, 2, 40, 4, 5, 6]


@pytest.mark.parametrize(
    ("changes", "takes"),
    [
        ({}, True),
        ({"dtype": torch.float32}, False),
        ({"device": CPU}, False),
        ({"head_dim": 20}, False),
        ({"head_dim": 264}, False),
        ({"layer_types": ["full_attention", "chunked_attention"]}, False),
    ],
    ids=str,
)
def test_what_flash_attention_takes(
    changes: dict[str, Any], takes: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model on a GPU in all but its tensors."""
    config = SimpleNamespace(_attn_implementation="sdpa", head_dim=64, layer_types=None)
    vars(config).update({name: own for name, own in changes.items() if name in vars(config)})
    config.get_text_config = lambda: config
    model: Any = SimpleNamespace(
        config=config,
        device=changes.get("device", torch.device("cuda")),
        dtype=changes.get("dtype", torch.bfloat16),
        _supports_flash_attn=True,
        set_attn_implementation=lambda name: setattr(config, "_attn_implementation", name),
    )
    monkeypatch.setattr(varlen, "_torch_has_it", lambda: True)
    assert varlen.install(model) == takes
    assert (config._attn_implementation != "sdpa") == takes


class TestWithinTexts:
    """The attention of a GPU, with plain attention text by text in the place of FlashAttention."""

    @pytest.fixture
    def calls(self, monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
        """The windows that it was asked for; one per call."""
        windows: list[tuple[int, int]] = []

        def by_text(
            q: Tensor,
            k: Tensor,
            v: Tensor,
            ends: Tensor,
            longest: int,
            *,
            scale: float,
            window_size: tuple[int, int],
        ) -> Tensor:
            windows.append(window_size)
            parts = []
            for start, end in zip(ends.tolist(), ends.tolist()[1:], strict=False):
                assert end - start <= longest
                away = torch.arange(end - start)[:, None] - torch.arange(end - start)
                seen = away >= 0 if window_size[0] < 0 else (away >= 0) & (away <= window_size[0])
                states = (t[start:end].transpose(0, 1) for t in (q, k, v))
                out = nn.functional.scaled_dot_product_attention(*states, attn_mask=seen, scale=scale)
                parts.append(out.transpose(0, 1))
            return torch.cat(parts)

        monkeypatch.setattr(varlen, "_within_texts", by_text)
        monkeypatch.setattr(varlen, "install", lambda model: varlen.use(model) or True)
        return windows

    @pytest.mark.parametrize(
        ("model", "window"),
        [(tiny_llama, (-1, 0)), (mistral, (3, 0))],
        ids=["llama", "mistral"],
    )
    def test_numbers_are_those_of_padded_texts(
        self, calls: list[tuple[int, int]], model: Any, window: tuple[int, int]
    ) -> None:
        roles = roles_of(model(), layout="packed", activation_checkpointing=True)
        assert roles.packed
        randomize(policy_params(roles), seed=2)
        randomize(value_params(roles))
        calls.clear()
        own = numbers(roles, batch_of(packed=True))
        assert set(calls) == {window}
        calls.clear()
        padded = numbers(roles, batch_of(packed=False))
        assert not calls
        check_same(own, padded)

    def test_no_mask_of_pairs_is_made(self, calls: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
        """Nor is the GPU asked whether there are several texts, for which it would be waited for."""
        roles = roles_of(layout="packed")
        made: list[Any] = []
        attention = varlen.attention
        monkeypatch.setattr(
            "transformers.AttentionInterface._global_mapping",
            {varlen.IMPLEMENTATION: lambda *a, **k: (made.append(a[4].numel()), attention(*a, **k))[1]},
        )
        find = "transformers.masking_utils.find_packed_sequence_indices"
        monkeypatch.setattr(find, lambda *_: pytest.fail("asked"))
        roles.hidden(batch_of(packed=True), "policy")
        assert made == [1, 1]

    def test_activations_are_counted_as_texts_lie(self, calls: list[Any]) -> None:
        """This attention keeps other tensors for its gradient than that of padded texts."""
        roles = roles_of(layout="packed")
        calls.clear()
        assert activation_bytes(roles) > 0
        assert calls

    def test_what_it_does_not_compute_is_refused(self) -> None:
        states = torch.zeros(1, 2, 3, 8)
        told = {"cu_seq_lens_q": torch.tensor([0, 3]), "max_length_q": 3}
        for other in ({"softcap": 50.0}, {"s_aux": torch.zeros(2)}):
            with pytest.raises(ValueError, match="no caps, sinks or biases"):
                varlen.attention(None, states, states, states, None, **told, **other)
