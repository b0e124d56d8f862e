"""States behind the lower layers: computed once, with the numbers and gradients of whole passes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import (
    BartForCausalLM,
    BloomForCausalLM,
    FalconForCausalLM,
    Gemma2ForCausalLM,
    GPT2LMHeadModel,
    GPTNeoXForCausalLM,
    MambaForCausalLM,
    MptForCausalLM,
    OPTForCausalLM,
    RwkvForCausalLM,
)

from ppokit.data.batches import TokenBatch
from ppokit.kernels import frozen_trunk
from ppokit.models.lora import adapter_of
from ppokit.models.roles import ModelRoles
from small_models import tiny, tiny_llama
from small_roles import LORA, policy_params, randomize, roles_of, save_adapter, token_batch, value_params

# peft 0.21 asks transformers 5 for a property by its old name.
pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")

OPT = {"ffn_dim": 64, "target_modules": ["q_proj", "fc1"]}
BART = {"decoder_ffn_dim": 64, "decoder_attention_heads": 2, "encoder_attention_heads": 2}


def randomized(**changes: Any) -> ModelRoles:
    """Four layers, the value adapter on two of them, nothing at its zeros."""
    roles = roles_of(tiny_llama(num_hidden_layers=4), **changes)
    randomize(value_params(roles))
    randomize(policy_params(roles), seed=2)
    return roles


def calls_of(roles: ModelRoles) -> list[int]:
    """Grows by a layer's number whenever its attention runs."""
    seen: list[int] = []
    layers = frozen_trunk.layers_of(roles.model)
    for number, layer in enumerate(layers):
        layer.self_attn.register_forward_hook(lambda *_, number=number: seen.append(number))
    return seen


def rows_of(batch: TokenBatch, rows: list[int]) -> TokenBatch:
    prompts = [[1, 7, 8, 9], [5], [1, 33]]
    answers = [[10, 11, 12], [20, 21, 22, 23, 2], [40]]
    responses, mask = torch.zeros(len(rows), 7, dtype=torch.long), torch.zeros(len(rows), 7, dtype=torch.bool)
    for index, row in enumerate(rows):
        responses[index, : len(answers[row])] = torch.tensor(answers[row])
        mask[index, : len(answers[row])] = True
    return TokenBatch.build([prompts[row] for row in rows], responses, mask, batch.input_ids.device)


def gradients(roles: ModelRoles, batch: TokenBatch) -> tuple[Tensor, list[Tensor]]:
    """Values, and the gradients of the sum of their squares."""
    values = roles.values(batch)
    params = value_params(roles)
    return values.detach(), list(
        torch.autograd.grad((values**2).sum(), params, allow_unused=True, materialize_grads=True)
    )


def whole(batch: TokenBatch) -> tuple[Tensor, list[Tensor]]:
    """What a model says that keeps nothing."""
    roles = randomized()
    frozen_trunk.remove(roles.model)
    return gradients(roles, batch)


@pytest.mark.parametrize("first", ["reference", "value"])
def test_later_passes_start_in_the_middle_with_the_same_numbers(first: Any) -> None:
    roles, batch = randomized(), token_batch()
    calls = calls_of(roles)
    roles.hidden(batch, first)
    assert calls == [0, 1, 2, 3]
    calls.clear()
    values, slopes = gradients(roles, batch)
    assert calls == [2, 3]
    expected, wanted = whole(batch)
    assert expected.abs().max() > 0.1
    torch.testing.assert_close(values, expected, atol=1e-5, rtol=1e-5)
    assert len(slopes) == len(wanted) > 2
    for slope, want in zip(slopes, wanted, strict=True):
        torch.testing.assert_close(slope, want, atol=1e-5, rtol=1e-4)


def test_other_roles_are_not_touched() -> None:
    """The policy's lower layers have an adapter; the reference is asked for anew."""
    roles, batch = randomized(), token_batch()
    before = {role: roles.hidden(batch, role).detach() for role in ("policy", "reference")}
    calls = calls_of(roles)
    for role, states in before.items():
        torch.testing.assert_close(roles.hidden(batch, role).detach(), states, atol=0, rtol=0)
    assert calls == [0, 1, 2, 3] * 2


def test_texts_are_found_in_other_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """In another order and width; a text that is not known asks for a whole pass."""
    roles, batch = randomized(), token_batch()
    roles.hidden(rows_of(batch, [0, 1]), "reference")
    calls = calls_of(roles)
    swapped, _ = gradients(roles, rows_of(batch, [1, 0]))
    assert calls == [2, 3]
    expected, _ = whole(batch)
    torch.testing.assert_close(swapped[:, :5], expected[[1, 0]], atol=1e-5, rtol=1e-5)
    calls.clear()
    third, _ = gradients(roles, rows_of(batch, [2, 0]))
    assert calls == [0, 1, 2, 3]
    torch.testing.assert_close(third[:, :5], expected[[2, 0]], atol=1e-5, rtol=1e-5)


def test_nothing_is_kept_beyond_the_step_or_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    roles, batch = randomized(), token_batch()
    calls = calls_of(roles)
    roles.hidden(batch, "reference")
    roles.clear_cache()
    roles.values(batch)
    assert calls == [0, 1, 2, 3] * 2
    roles.clear_cache()
    # Room for 11 states of 32 numbers, where the three texts have 6, 5 and 2: the oldest goes.
    monkeypatch.setattr(frozen_trunk, "MOST_BYTES", 4 * 32 * 11)
    roles.values(batch)
    cache = frozen_trunk.cache_of(roles.model)
    assert cache is not None
    assert cache.bytes == 4 * 32 * 7
    calls.clear()
    roles.values(batch)
    assert calls == [0, 1, 2, 3]


def test_where_it_does_not_apply() -> None:
    """A trunk or an adapter everywhere leaves no frozen half."""
    assert frozen_trunk.cache_of(roles_of(value="policy_trunk").model) is None
    assert frozen_trunk.cache_of(roles_of(lora=None, value="policy_trunk").model) is None
    assert frozen_trunk.cache_of(roles_of(tiny_llama(num_hidden_layers=1)).model) is None


def test_a_model_that_does_more_below_keeps_its_layers() -> None:
    """What the lowest layer gives is also added to what the highest one reads, past the states between."""
    model = tiny_llama(num_hidden_layers=4)
    layers, carried = frozen_trunk.layers_of(model), []
    layers[0].register_forward_hook(lambda _, inputs, output: carried.append(output))
    layers[3].register_forward_pre_hook(lambda _, inputs: (inputs[0] + carried.pop(),))
    roles = roles_of(model)
    assert frozen_trunk.cache_of(roles.model) is None
    assert not any("forward" in vars(layer) for layer in layers)


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        (Gemma2ForCausalLM, {"head_dim": 16, "num_key_value_heads": 1}),  # scales its embeddings
        (GPTNeoXForCausalLM, {}),
        (OPTForCausalLM, {"word_embed_proj_dim": 16, "do_layer_norm_before": False, **OPT}),
        (BloomForCausalLM, {"n_layer": 3, "n_head": 2}),
        (FalconForCausalLM, {}),
        (MptForCausalLM, {"d_model": 32, "n_heads": 2, "n_layers": 3}),
        (RwkvForCausalLM, {"attention_hidden_size": 32}),
        (MambaForCausalLM, {"state_size": 8, "target_modules": ["in_proj", "x_proj"]}),
        (BartForCausalLM, {"d_model": 32, "decoder_layers": 3, "encoder_layers": 5, **BART}),
        (GPT2LMHeadModel, {"n_embd": 32, "n_layer": 3, "n_head": 2}),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_layers_by_any_name(kind: Any, settings: dict[str, Any]) -> None:
    """The value adapter stands on the upper third, and what is below it runs once."""
    targets = settings.get("target_modules", "all-linear")
    settings = {key: value for key, value in settings.items() if key != "target_modules"}
    model = tiny(kind, **{"vocab_size": 64, "num_hidden_layers": 3, "initializer_range": 0.2, **settings})
    roles = roles_of(model, lora=LORA.model_copy(update={"target_modules": targets}))
    layers = frozen_trunk.layers_of(model)
    assert [any(frozen_trunk.has_adapter(m, "value") for m in x.modules()) for x in layers] == [
        False,
        False,
        True,
    ]
    randomize(value_params(roles))
    randomize(policy_params(roles), seed=2)
    calls: list[int] = []
    for module in list(layers[0].modules())[1:]:
        module.register_forward_pre_hook(lambda *_: calls.append(1))
    frozen_trunk.remove(model)
    expected = gradients(roles, token_batch())
    assert frozen_trunk.install(model)
    roles.logprobs(token_batch(), "reference", temperature=1.0)
    calls.clear()
    for ours, theirs in zip(gradients(roles, token_batch())[1], expected[1], strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(roles.values(token_batch()), expected[0], atol=1e-5, rtol=1e-5)
    assert not calls


def test_a_reference_with_an_adapter_shares_nothing(tmp_path: Any) -> None:
    save_adapter(tmp_path, "all-linear")
    roles = roles_of(lora=LORA.model_copy(update={"adapter": str(tmp_path)}))
    assert {adapter_of(n) for n, _ in roles.model.named_parameters()} >= {"policy", "reference", "value"}
    roles.hidden(token_batch(), "reference")
    calls = calls_of(roles)
    roles.values(token_batch())
    roles.values(token_batch())
    assert calls == [0, 1, 1]
