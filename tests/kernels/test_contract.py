"""The contract of every kernel: installed once, the same numbers and gradients, removed without a trace."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from ppokit.kernels import registry
from ppokit.models.roles import ModelRoles
from small_models import tiny_gpt2, tiny_llama
from small_roles import logprobs, policy_params, randomize, roles_of, save_adapter, token_batch

# peft 0.21 asks transformers 5 for a property by its old name.
pytestmark = pytest.mark.filterwarnings(
    "ignore:.*is_gradient_checkpointing.*:FutureWarning", "ignore:fan_in_fan_out:UserWarning"
)

KERNELS = sorted({kernel.name: kernel for kernel in (*registry.TRAINING, *registry.SAMPLING)}.items())


def traces(model: Any) -> list[str]:
    """What fast paths leave behind on a model."""
    marks = [name for name, module in model.named_modules() if "forward" in vars(module)]
    hooks = [name for name, module in model.named_modules() if module._forward_pre_hooks]
    return [*marks, *hooks, *([] if model.config._attn_implementation == "sdpa" else ["attention"])]


def four_layers(dtype: torch.dtype = torch.float32, **changes: Any) -> ModelRoles:
    roles = roles_of(tiny_llama(num_hidden_layers=4, dtype=dtype), **changes)
    randomize(roles.trainable.values())
    return roles


def numbers_of(roles: ModelRoles) -> list[Tensor]:
    """What all roles and the sampler compute, twice over for what is kept, and all gradients."""
    batch = token_batch()
    reference = logprobs(roles, "reference").detach()
    policy = logprobs(roles)
    values = roles.values(batch)
    (policy.sum() + (values**2).sum()).backward()
    grads = [param.grad for _, param in sorted(roles.trainable.items())]
    assert all(grad is not None for grad in grads)
    with torch.no_grad():
        ids = batch.input_ids
        sampled = roles.sampler()(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
    return [reference, policy.detach(), values.detach(), sampled, *grads]  # type: ignore[list-item]


@pytest.mark.parametrize("settings", [{}, {"lora": None, "value": "policy_trunk"}])
def test_off_gives_the_same_numbers_by_plain_code(settings: dict[str, Any]) -> None:
    """`model.fast_paths: off`."""
    fast, plain = four_layers(**settings), four_layers(fast_paths="off", **settings)
    for model in (plain.model, plain.frozen_copy, plain.sampler()):
        assert model is None or traces(model) == []
    assert traces(fast.model) != []
    for actual, expected in zip(numbers_of(fast), numbers_of(plain), strict=True):
        torch.testing.assert_close(actual, expected, atol=2e-4, rtol=2e-3)
    for model in (plain.model, plain.frozen_copy, plain.sampler()):
        assert model is None or traces(model) == []


@pytest.mark.parametrize(("name", "kernel"), KERNELS)
def test_each_alone_gives_the_same_numbers_and_is_removed(name: str, kernel: registry.Kernel) -> None:
    roles, plain = four_layers(fast_paths="off"), four_layers(fast_paths="off")
    model: Any = roles.model if kernel in registry.TRAINING else roles.sampler()
    assert kernel.name == name
    assert kernel.install(model)
    assert traces(model) != []
    expected = numbers_of(plain)
    for actual, wanted in zip(numbers_of(roles), expected, strict=True):
        torch.testing.assert_close(actual, wanted, atol=2e-4, rtol=2e-3)
    assert kernel.install(model)  # once more is no more
    kernel.remove(model)
    assert traces(model) == []
    for param in roles.trainable.values():
        param.grad = None
    for actual, wanted in zip(numbers_of(roles), expected, strict=True):
        assert torch.equal(actual, wanted)
    kernel.remove(model)  # without it, nothing


@pytest.mark.parametrize(("name", "kernel"), KERNELS)
def test_a_model_that_it_does_not_fit_is_untouched(name: str, kernel: registry.Kernel) -> None:
    """GPT-2 has no plain linear layers; without a value adapter no layer is below it."""
    roles = roles_of(tiny_gpt2(), fast_paths="off", value="policy_trunk")
    model: Any = roles.model
    if name == "short_attention":  # which fits it; not a model that has chosen another
        model.set_attn_implementation("eager")
    if name == "linear":
        model.bfloat16()
    before = traces(model)
    assert not kernel.install(model)
    assert traces(model) == before


def test_a_fitted_adapter_that_is_added_later_is_fast_too(tmp_path: Any) -> None:
    from safetensors.torch import load_file, save_file

    save_adapter(tmp_path, ["q_proj"])
    file = tmp_path / "adapter_model.safetensors"
    save_file({**load_file(file), "head.weight": torch.randn(1, 32)}, file)
    for fast_paths, expected in (("auto", True), ("off", False)):
        lora = roles_of().lora
        assert lora is not None
        only_v = lora.model_copy(update={"target_modules": ["v_proj"]})
        roles = roles_of(lora=only_v, value=None, fast_paths=fast_paths)
        roles.add_fitted(tmp_path, "fitted", key="rewards[0].model")
        marks = [n for n, m in roles.model.named_modules() if n.endswith("q_proj") and "forward" in vars(m)]
        assert bool(marks) == expected
        assert roles.hidden(token_batch(), "fitted").isfinite().all()
    assert policy_params(roles)
