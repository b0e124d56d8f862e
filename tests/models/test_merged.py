"""The merged sampler against peft's own model: every kind of adapted weight, and the check at the start."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import Linear as LoraLinear
from torch import Tensor
from transformers import (
    GptOssForCausalLM,
    JambaForCausalLM,
    Llama4ForCausalLM,
    MambaForCausalLM,
    MixtralForCausalLM,
    PreTrainedModel,
    Qwen2MoeForCausalLM,
)

from ppokit.config.settings import LoraSettings
from ppokit.errors import ModelError
from ppokit.models import merged
from small_models import tiny, tiny_llama
from small_roles import logprobs, policy_params, randomize, roles_of, save_adapter, token_batch, value_params

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning"),
    pytest.mark.filterwarnings("ignore:The following (rank|alpha)_pattern keys:RuntimeWarning"),
]

SIZES = {"vocab_size": 64, "num_key_value_heads": 2, "initializer_range": 0.2, "max_position_embeddings": 64}
EXPERTS = ["experts.gate_up_proj", "experts.down_proj"]
QWEN = {"num_experts": 4, "moe_intermediate_size": 32, "shared_expert_intermediate_size": 32}
JAMBA = {"num_experts": 2, "attn_layer_period": 2, "attn_layer_offset": 1, "mamba_d_state": 8}
LLAMA4 = {"num_local_experts": 4, "head_dim": 16, "intermediate_size_mlp": 64, "interleave_moe_layer_step": 1}
CASES: list[tuple[type[PreTrainedModel], dict[str, Any], dict[str, Any]]] = [
    (MixtralForCausalLM, {"num_local_experts": 4}, {"target_modules": "all-linear"}),  # experts too, in peft
    (MixtralForCausalLM, {"num_local_experts": 4}, {"target_modules": [], "target_parameters": EXPERTS}),
    (Qwen2MoeForCausalLM, QWEN, {"target_modules": ["q_proj"], "target_parameters": EXPERTS}),
    (GptOssForCausalLM, {"num_local_experts": 4, "head_dim": 16}, {"target_parameters": EXPERTS}),
    (Llama4ForCausalLM, LLAMA4, {"target_modules": "all-linear"}),  # its router gives two tensors
    (MambaForCausalLM, {"state_size": 8}, {"target_modules": "all-linear"}),
    (JambaForCausalLM, JAMBA, {"target_modules": "all-linear"}),  # reads a weight past its layer
]


def test_an_adapter_on_experts_beside_a_value_functions(tmp_path: Path) -> None:
    """peft adapts the same experts' weights in all adapters of a model."""

    def mixtral() -> PreTrainedModel:
        return tiny(MixtralForCausalLM, **SIZES, num_local_experts=4)

    targets = {"target_modules": ["q_proj"], "target_parameters": EXPERTS}
    get_peft_model(mixtral(), LoraConfig(r=4, task_type="CAUSAL_LM", **targets)).save_pretrained(
        str(tmp_path)
    )
    others = LoraSettings(adapter=str(tmp_path), target_modules=["q_proj"], target_parameters=EXPERTS[:1])
    with pytest.raises(ModelError, match=r"^lora: the value function's adapter .* Name target_modules and"):
        roles_of(mixtral(), lora=others)
    roles_of(mixtral(), lora=LoraSettings(adapter=str(tmp_path), **targets))


@pytest.mark.parametrize(("kind", "settings", "targets"), CASES)
def test_sampler_trainer_and_saved_policy_are_one(
    tmp_path: Path, kind: type[PreTrainedModel], settings: dict[str, Any], targets: dict[str, Any]
) -> None:
    model = tiny(kind, **{**SIZES, **settings})
    pristine = copy.deepcopy(model)
    lora = LoraSettings(r=4, alpha=8, **targets)
    roles, batch = roles_of(model, lora=lora), token_batch()
    randomize(value_params(roles), seed=2)
    randomize(policy_params(roles))
    ours = logprobs(roles)
    ours.sum().backward()
    assert all(param.grad is not None and bool(param.grad.any()) for param in policy_params(roles))

    def of(other: Any) -> Tensor:
        with torch.no_grad():
            logits = other(input_ids=batch.input_ids, use_cache=False).logits[batch.rows, batch.positions]
        return logits.log_softmax(-1).gather(1, batch.targets[:, None])[:, 0]

    roles.save_policy(tmp_path)
    peft = PeftModel.from_pretrained(copy.deepcopy(pristine), str(tmp_path)).eval()
    expected = of(peft)
    torch.testing.assert_close(ours[batch.mask].detach(), expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(of(roles.sampler()), expected, atol=2e-5, rtol=1e-5)
    torch.testing.assert_close(logprobs(roles, "reference")[batch.mask], of(pristine), atol=1e-5, rtol=1e-5)
    again = roles_of(pristine, lora=lora.model_copy(update={"adapter": str(tmp_path)}))
    for role in ("policy", "reference"):
        torch.testing.assert_close(logprobs(again, role)[batch.mask], expected, atol=1e-5, rtol=1e-5)


def test_bfloat16_keeps_what_the_adapter_has_learned(tmp_path: Path) -> None:
    """Changes of a thousandth of a weight: to the nearest, a bfloat16 weight loses most of them."""
    pristine = tiny_llama(hidden_size=256, intermediate_size=512).to(torch.bfloat16)
    roles = roles_of(copy.deepcopy(pristine))
    randomize(policy_params(roles))
    with torch.no_grad():
        for param in policy_params(roles):
            param.mul_(0.004 / float(param.std()))
    roles.save_policy(tmp_path)
    exact = PeftModel.from_pretrained(copy.deepcopy(pristine).float(), str(tmp_path)).merge_and_unload()
    sampler, weights = roles.sampler().state_dict(), exact.state_dict()
    kept, to_nearest = [], []
    for name, before in pristine.state_dict().items():
        change = weights[name] - before.float()
        if change.any():
            size = change.square().sum()
            kept.append(float(((sampler[name].float() - before.float()) * change).sum() / size))
            nearest = weights[name].to(torch.bfloat16).float()
            to_nearest.append(float(((nearest - before.float()) * change).sum() / size))
    assert sum(to_nearest) / len(to_nearest) < 0.6
    assert kept == pytest.approx([1.0] * len(kept), abs=0.1)


class TestTheCheckAtTheStart:
    def test_a_wrong_scaling(self, monkeypatch: pytest.MonkeyPatch) -> None:
        plain = LoraLinear.get_delta_weight
        monkeypatch.setattr(LoraLinear, "get_delta_weight", lambda *args: 0.99 * plain(*args))
        with pytest.raises(ModelError, match=r"lora\.target_modules: the adapter on .*_proj computes so"):
            roles_of().sampler()

    def test_one_layer_that_computes_more(self, monkeypatch: pytest.MonkeyPatch) -> None:
        model = tiny_llama()
        merge = merged.MergedSampler.follow

        def follow(self: Any, adapted: Any, adapter: str, **options: Any) -> None:
            layer = adapted.model.layers[1].self_attn.v_proj
            layer.register_forward_hook(lambda module, inputs, out: out + 0.01 * out.abs().max())
            merge(self, adapted, adapter, **options)

        monkeypatch.setattr(merged.MergedSampler, "follow", follow)
        with pytest.raises(ModelError, match=r"the adapter on model\.layers\.1\.self_attn\.v_proj computes"):
            roles_of(model).sampler()

    def test_a_module_that_is_not_merged(self, monkeypatch: pytest.MonkeyPatch) -> None:
        known = merged.has_adapter
        monkeypatch.setattr(
            merged, "has_adapter", lambda module, name: known(module, name) and module.in_features != 48
        )
        with pytest.raises(ModelError, match=r"down_proj\.lora_A\.policy\.weight of the adapter is merged"):
            roles_of().sampler()

    def test_weights_that_are_not_copied(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(merged.MergedSampler, "_merge", lambda self: self.model)
        with pytest.raises(ModelError, match="computes something else in peft"):
            roles_of().sampler()

    def test_a_weight_that_is_read_past_the_adapter(self) -> None:
        model = tiny(JambaForCausalLM, **{**SIZES, **JAMBA})
        lora = LoraSettings(r=4, alpha=8, target_modules=["q_proj", "dt_proj"])
        with pytest.raises(ModelError, match=r"lora\.target_modules: the adapter on .*dt_proj computes"):
            roles_of(model, lora=lora).sampler()

    def test_a_router_that_peft_cannot_wrap(self) -> None:
        model = tiny(Llama4ForCausalLM, **{**SIZES, **LLAMA4})
        with pytest.raises(ModelError, match=r"lora\.target_modules: Llama4ForCausalLM does not run with"):
            roles_of(model, lora=LoraSettings(r=4, alpha=8, target_modules=["router"])).sampler()

    @pytest.mark.parametrize("seed", range(3))
    def test_what_a_resumed_run_has_learned_in_bfloat16(self, seed: int) -> None:
        """Twelve layers turn the rounding of such a change into more than what a wrong module would do."""
        roles = roles_of(tiny_llama(seed, num_hidden_layers=12).to(torch.bfloat16))
        randomize(policy_params(roles), seed)
        learned = [param.clone() for param in policy_params(roles)]
        roles.sampler()
        assert all(torch.equal(a, b) for a, b in zip(policy_params(roles), learned, strict=True))

    def test_the_adapters_numbers_are_left_alone(self, tmp_path: Path) -> None:
        trained = save_adapter(tmp_path, "all-linear")
        lora = LoraSettings(r=4, alpha=8, adapter=str(tmp_path))
        roles = roles_of(lora=lora, value=None)
        theirs = [p for n, p in trained.named_parameters() if "lora_" in n]
        assert all(torch.equal(a, b) for a, b in zip(policy_params(roles), theirs, strict=True))
