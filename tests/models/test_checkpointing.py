"""Layers that compute their inside again: the same numbers and gradients, bit for bit, for less memory."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import FalconForCausalLM, Gemma2ForCausalLM, PreTrainedModel

from ppokit.kernels.frozen_trunk import layers_of
from ppokit.models.checkpointing import all_kept
from ppokit.models.memory_audit import activation_bytes
from ppokit.models.roles import ModelRoles
from small_models import tiny, tiny_gpt2, tiny_llama
from small_roles import policy_params, randomize, roles_of, token_batch, value_params


def both(model: Any, **changes: Any) -> tuple[ModelRoles, ModelRoles]:
    """The same roles with and without checkpointing, nothing at its zeros."""
    pair = []
    for on in (True, False):
        roles = roles_of(model(), activation_checkpointing=on, **changes)
        if roles.lora is not None:
            randomize(policy_params(roles), seed=2)
        randomize(value_params(roles))
        pair.append(roles)
    return pair[0], pair[1]


def gradients(roles: ModelRoles) -> dict[str, Tensor]:
    """Of a loss of policy and value function, one backward pass through both."""
    if roles.value_mode == "own_adapter":
        roles.hidden(token_batch(), "reference")  # whose lower layers the value function need not repeat
    logprobs, entropy, values = roles.logprobs_and_values(token_batch(), temperature=1.0, entropy="gradient")
    (logprobs.square() + 0.3 * entropy + values.square()).sum().backward()
    return {name: param.grad for name, param in roles.trainable.items() if param.grad is not None}


def falcon() -> PreTrainedModel:
    """Draws dropout in its layers where it is in training mode."""
    return tiny(FalconForCausalLM, hidden_dropout=0.5, attention_dropout=0.5, vocab_size=64)


@pytest.mark.parametrize(
    ("model", "changes"),
    [
        (lambda: tiny_llama(num_hidden_layers=4), {}),
        (lambda: tiny_llama(num_hidden_layers=4), {"fast_paths": "off"}),
        (tiny_llama, {"value": "policy_trunk"}),
        (tiny_llama, {"lora": None, "value": "policy_trunk"}),
        (falcon, {}),
        (lambda: tiny(Gemma2ForCausalLM, head_dim=16, num_key_value_heads=1, vocab_size=64), {}),
        (tiny_gpt2, {}),
    ],
    ids=["own-adapter", "plain", "trunk", "whole", "falcon", "gemma2", "gpt2"],
)
def test_gradients_are_the_same(model: Any, changes: dict[str, Any]) -> None:
    """With adapters of their own, two roles of one base go back in one pass, and each as itself."""
    with_it, without = (gradients(roles) for roles in both(model, **changes))
    assert with_it.keys() == without.keys()
    assert any("layers.0." in name or ".h.0." in name for name in with_it)
    for name, expected in without.items():
        assert torch.equal(with_it[name], expected), name


def test_the_last_role_stays_active() -> None:
    """A backward pass through two roles leaves the model in that of the last forward pass."""
    roles, _ = both(tiny_llama)
    gradients(roles)
    active = {tuple(m.active_adapters) for m in roles.model.modules() if hasattr(m, "lora_A")}
    before = roles.values(token_batch())
    assert ("value",) in active
    assert torch.equal(roles.values(token_batch()), before)


def test_layers_keep_their_input_alone() -> None:
    """Counted from what autograd saves: per layer and token one state of 32 numbers, and the last norm's."""
    roles, without = both(lambda: tiny_llama(num_hidden_layers=8), fast_paths="off")
    layers, state = 8, 4 * 32
    whole = activation_bytes(without)
    with all_kept(roles.model) as count:
        assert count == layers
        assert activation_bytes(roles) == whole
    kept = activation_bytes(roles) - whole // layers
    assert layers * state <= kept <= (layers + 6) * state
    assert whole > 10 * layers * state


def test_layers_run_once_more_for_their_gradient_and_once_without() -> None:
    roles, _ = both(tiny_llama)
    calls: list[int] = []
    for number, layer in enumerate(layers_of(roles.model)):
        layer.mlp.register_forward_pre_hook(lambda *_, number=number: calls.append(number))
    with torch.no_grad():
        roles.hidden(token_batch(), "policy")
    assert calls == [0, 1]
    roles.hidden(token_batch(), "policy").sum().backward()
    assert calls == [0, 1, 0, 1, 1, 0]
