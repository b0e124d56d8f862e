"""A base in 4 bits against an ordinary model that has the same weights, dequantised by bitsandbytes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from bitsandbytes.functional import dequantize_4bit
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from ppokit import four_bits
from ppokit.audit import byte_audit
from ppokit.batches import TokenBatch
from ppokit.errors import ModelError
from ppokit.loading import find_model, load_config, load_model
from ppokit.models import LoraSpec, ModelRoles

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")

CPU = torch.device("cpu")
VALUE = ("own_adapter", "policy_trunk")
# 256 wide: sizes that inference on some CPUs packs into a format of its own.
LINEAR = [(256, 256), (256, 256), (256, 128), (256, 128), (256, 512), (256, 512), (512, 256)]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three layers with large random weights, not quantised."""
    folder = tmp_path_factory.mktemp("plain")
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=64,
        hidden_size=256,
        intermediate_size=512,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        initializer_range=0.1,
        bos_token_id=1,
        eos_token_id=2,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def in_four_bits(folder: Path, dtype: torch.dtype = torch.float32) -> Any:
    return load_model(find_model(str(folder)), dtype, CPU, load_in_4bit=True)


def dequantised(folder: Path) -> Any:
    """The oracle: an ordinary model, whose weights are what 4 bits make of them."""
    plain = load_model(find_model(str(folder)), torch.float32, CPU)
    weights = {
        name: param if state is None else dequantize_4bit(param.data, state)
        for name, param in in_four_bits(folder).named_parameters()
        for state in [getattr(param, "quant_state", None)]
    }
    plain.load_state_dict(weights)
    return plain


def roles_of(model: Any, value: Any = "own_adapter", **lora: Any) -> ModelRoles:
    spec = LoraSpec(**{"r": 4, "alpha": 8, "target_modules": "all-linear", **lora})
    roles = ModelRoles(model, lora=spec, value=value, reference=True)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for param in roles.trainable.values():
            param.copy_(torch.randn(param.shape, generator=generator) * 0.1)
    return roles


def token_batch() -> TokenBatch:
    responses = torch.tensor([[10, 11, 12, 0], [20, 21, 22, 23]])
    return TokenBatch.build([[1, 7, 8], [5]], responses, responses > 0, CPU)


def passes(roles: ModelRoles) -> tuple[Tensor, Tensor, Tensor]:
    """Policy, reference and values, [b,R] each."""
    batch = token_batch()
    reference = roles.logprobs(batch, "reference", temperature=1.0)[0].detach()
    policy, _, values = roles.logprobs_and_values(batch, temperature=1.0)
    return policy, reference, values


@pytest.mark.parametrize("targets", ["all-linear", ["q_proj", "v_proj"]])
@pytest.mark.parametrize("value", VALUE)
def test_every_role_and_gradient_is_the_dequantised_models(
    checkpoint: Path, value: Any, targets: Any
) -> None:
    """Also after sampling: a pass without gradients must not change what later ones give."""
    found = roles_of(in_four_bits(checkpoint), value, target_modules=targets)
    wanted = roles_of(dequantised(checkpoint), value, target_modules=targets)
    assert found.trainable.keys() == wanted.trainable.keys()
    for sampled in (False, True):
        if sampled:
            with torch.inference_mode():
                found.sampler()(input_ids=token_batch().input_ids)
        for came, expected in zip(passes(found), passes(wanted), strict=True):
            torch.testing.assert_close(came, expected, atol=1e-4, rtol=1e-4)
    for roles in (found, wanted):
        policy, _, values = passes(roles)
        (policy.sum() + values.square().sum()).backward()
    for name, param in wanted.trainable.items():
        assert param.grad.norm() > 0, name
        torch.testing.assert_close(found.trainable[name].grad, param.grad, atol=1e-3, rtol=1e-3, msg=name)


def test_the_sampler_is_the_policy_on_the_base_itself(checkpoint: Path) -> None:
    roles = roles_of(in_four_bits(checkpoint))
    batch = token_batch()
    with torch.no_grad():
        expected = roles.logprobs(batch, "policy", temperature=1.0)[0]
        roles.logprobs(batch, "reference", temperature=1.0)
        sampler = roles.sampler()
        logits = sampler(input_ids=batch.input_ids).logits
    assert sampler is roles.model
    assert sampler.config._attn_implementation == "sdpa"
    chosen = logits[batch.rows, batch.positions].log_softmax(-1).gather(-1, batch.targets[:, None])[:, 0]
    torch.testing.assert_close(batch.scatter(chosen), expected, atol=1e-4, rtol=1e-4)


def test_in_bfloat16_the_adapters_are_too(checkpoint: Path) -> None:
    roles = roles_of(in_four_bits(checkpoint, torch.bfloat16))
    assert {param.dtype for param in roles.adapters} == {torch.bfloat16}
    policy, _, values = passes(roles)
    (policy.sum() + values.sum()).backward()
    assert all(param.grad.norm() > 0 for name, param in roles.trainable.items())


def test_byte_audit_by_hand(checkpoint: Path) -> None:
    """Half a byte a weight; a scale of one byte for 64 weights; for 256 scales one of 4 bytes."""
    weights = 3 * sum(a * b for a, b in LINEAR)
    other = 4 * (2 * 64 * 256 + 3 * 2 * 256 + 256)
    scales = sum(-(-a * b // 64) + 4 * -(-a * b // 64 // 256) for a, b in LINEAR)
    audit = byte_audit(roles_of(in_four_bits(checkpoint)), 0, 0)
    assert audit["base"] == weights // 2 + 3 * scales + other
    assert audit["merged sampler"] == 0


def test_a_checkpoint_that_is_in_four_bits_already(checkpoint: Path, tmp_path: Path) -> None:
    model = in_four_bits(checkpoint)
    model.save_pretrained(tmp_path / "four")
    again = load_model(find_model(str(tmp_path / "four")), torch.float32, CPU)
    assert four_bits.is_in_four_bits(again)
    ids = token_batch().input_ids
    with torch.no_grad():
        torch.testing.assert_close(again(input_ids=ids).logits, model(input_ids=ids).logits)


class TestRefused:
    @pytest.mark.parametrize(
        ("quantised", "name"),
        [
            ({"quant_method": "gptq", "bits": 4}, "gptq"),
            ({"quant_method": "bitsandbytes", "load_in_8bit": True}, "bitsandbytes"),
            ({"bits": 2}, "an unknown method"),
        ],
    )
    def test_another_quantisation(
        self, checkpoint: Path, tmp_path: Path, quantised: dict[str, Any], name: str
    ) -> None:
        config = json.loads((checkpoint / "config.json").read_text())
        (tmp_path / "config.json").write_text(json.dumps({**config, "quantization_config": quantised}))
        with pytest.raises(ModelError, match=rf"model\.name: .* is quantised by {name}; expected"):
            load_config(find_model(str(tmp_path)))

    def test_training_all_weights(self, checkpoint: Path) -> None:
        with pytest.raises(ModelError, match="lora: a base in 4 bits does not train"):
            ModelRoles(in_four_bits(checkpoint), lora=None, value=None, reference=False)

    def test_without_bitsandbytes(self, checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(four_bits, "find_spec", lambda name: None)
        with pytest.raises(ModelError, match=r"model\.load_in_4bit: .*pip install 'ppokit\[quantized\]'"):
            in_four_bits(checkpoint)
