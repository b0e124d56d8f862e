"""A base in 4 bits against an ordinary model that has the same weights, dequantised by bitsandbytes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import (
    BitsAndBytesConfig,
    LlamaForCausalLM,
    MixtralForCausalLM,
    Qwen2ForCausalLM,
)
from transformers.models.llama.modeling_llama import LlamaMLP

from ppokit.config.settings import LoraSettings
from ppokit.data.batches import TokenBatch
from ppokit.errors import ModelError, PpokitWarning
from ppokit.models import quantization
from ppokit.models.loading import find_model, load_config, load_model
from ppokit.models.memory_audit import byte_audit
from ppokit.models.roles import ModelRoles
from ppokit.reward_models.base import find_base
from small_models import tiny

bitsandbytes = pytest.importorskip("bitsandbytes")
pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")

CPU = torch.device("cpu")
VALUE = ("own_adapter", "policy_trunk")
# 256 wide: sizes that inference on some CPUs packs into a format of its own.
LINEAR = [(256, 256), (256, 256), (256, 128), (256, 128), (256, 512), (256, 512), (512, 256)]


SIZES = {
    "vocab_size": 64,
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "initializer_range": 0.1,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


def saved(model: Any, folder: Path) -> Path:
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three layers with large random weights, not quantised."""
    return saved(tiny(LlamaForCausalLM, **SIZES), tmp_path_factory.mktemp("plain"))


@pytest.fixture(scope="module")
def with_biases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with biases at queries, keys and values."""
    model = tiny(Qwen2ForCausalLM, **SIZES)
    for name, param in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(param)
    return saved(model, tmp_path_factory.mktemp("biases"))


def in_four_bits(folder: Path, dtype: torch.dtype = torch.float32) -> Any:
    return load_model(find_model(str(folder)), dtype, CPU, load_in_4bit=True)


def dequantised(folder: Path) -> Any:
    """The oracle: an ordinary model, whose weights are what 4 bits make of them."""
    plain = load_model(find_model(str(folder)), torch.float32, CPU)
    weights = {
        name: param if state is None else bitsandbytes.functional.dequantize_4bit(param.data, state)
        for name, param in in_four_bits(folder).named_parameters()
        for state in [getattr(param, "quant_state", None)]
    }
    plain.load_state_dict(weights)
    return plain


def roles_of(model: Any, value: Any = "own_adapter", **lora: Any) -> ModelRoles:
    spec = LoraSettings(**{"r": 4, "alpha": 8, "target_modules": "all-linear", **lora})
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
@pytest.mark.parametrize("model", ["checkpoint", "with_biases"])
def test_every_role_and_gradient_is_the_dequantised_models(
    request: pytest.FixtureRequest, model: str, value: Any, targets: Any
) -> None:
    """Also after sampling: a pass without gradients must not change what later ones give."""
    checkpoint: Path = request.getfixturevalue(model)
    actual = roles_of(in_four_bits(checkpoint), value, target_modules=targets)
    wanted = roles_of(dequantised(checkpoint), value, target_modules=targets)
    assert actual.trainable.keys() == wanted.trainable.keys()
    for sampled in (False, True):
        if sampled:
            with torch.inference_mode():
                actual.sampler()(input_ids=token_batch().input_ids)
        for result, expected in zip(passes(actual), passes(wanted), strict=True):
            torch.testing.assert_close(result, expected, atol=1e-4, rtol=1e-4)
    for roles in (actual, wanted):
        policy, _, values = passes(roles)
        (policy.sum() + values.square().sum()).backward()
    for name, param in wanted.trainable.items():
        assert param.grad.norm() > 0, name
        torch.testing.assert_close(actual.trainable[name].grad, param.grad, atol=1e-3, rtol=1e-3, msg=name)


def test_the_sampler_is_the_policy_on_the_base_itself(checkpoint: Path) -> None:
    roles = roles_of(in_four_bits(checkpoint))
    batch = token_batch()
    with torch.no_grad():
        expected = roles.logprobs(batch, "policy", temperature=1.0)[0]
        roles.logprobs(batch, "reference", temperature=1.0)
        sampler = roles.sampler()
        logits = sampler(input_ids=batch.input_ids).logits
    assert sampler is roles.model
    chosen = logits[batch.rows, batch.positions].log_softmax(-1).gather(-1, batch.targets[:, None])[:, 0]
    torch.testing.assert_close(batch.scatter(chosen), expected, atol=1e-4, rtol=1e-4)


def layers_of(model: Any) -> list[Any]:
    return [m for m in model.modules() if isinstance(m, bitsandbytes.nn.Linear4bit)]


def test_layers_are_as_qlora_has_them_and_stay_so(checkpoint: Path) -> None:
    """No layer packs its weights for inference, as some processors make them, also where nothing samples."""
    roles = roles_of(in_four_bits(checkpoint, torch.bfloat16))
    assert {param.dtype for param in roles.adapters} == {torch.bfloat16}
    with torch.inference_mode():
        roles.sampler()(input_ids=token_batch().input_ids)
    policy, _, values = passes(roles)
    (policy.sum() + values.sum()).backward()
    assert all(param.grad.norm() > 0 for param in roles.trainable.values())
    layers = layers_of(roles.model)
    assert len(layers) == 3 * len(LINEAR)
    for layer in layers:
        state = layer.weight.quant_state
        assert (state.quant_type, state.blocksize, state.nested) == ("nf4", 64, True)
        assert not getattr(state, "packing_format_for_cpu", False)
        assert not layer.support_avx512bf16_for_cpu


def test_a_pretrained_adapter_and_its_reference(checkpoint: Path, tmp_path: Path) -> None:
    roles_of(in_four_bits(checkpoint)).save_policy(tmp_path)
    adapter = str(tmp_path)
    actual, expected = (
        ModelRoles(
            model,
            lora=LoraSettings(r=4, alpha=8, target_modules="all-linear", adapter=adapter),
            value="own_adapter",
            reference=True,
        )
        for model in (in_four_bits(checkpoint), dequantised(checkpoint))
    )
    policy, reference, _ = passes(actual)
    torch.testing.assert_close(policy, reference)
    torch.testing.assert_close(policy, passes(expected)[0], atol=1e-4, rtol=1e-4)
    shift = actual.logprobs(token_batch(), "base", temperature=1.0)[0] - policy
    assert shift.abs().max() > 0.01


def test_byte_audit_by_hand(checkpoint: Path) -> None:
    """Half a byte a weight; a scale of one byte for 64 weights; for 256 scales one of 4 bytes."""
    weights = 3 * sum(a * b for a, b in LINEAR)
    other = 4 * (2 * 64 * 256 + 3 * 2 * 256 + 256)
    scales = sum(-(-a * b // 64) + 4 * -(-a * b // 64 // 256) for a, b in LINEAR)
    audit = byte_audit(roles_of(in_four_bits(checkpoint)), 0, 0, 0)
    assert audit["base"] == weights // 2 + 3 * scales + other
    assert audit["merged sampler"] == 0


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("asked", [False, True])
def test_a_checkpoint_that_is_in_four_bits_already(checkpoint: Path, tmp_path: Path, asked: bool) -> None:
    """In the run's dtype, whichever it was saved in."""
    model = in_four_bits(checkpoint, torch.bfloat16)
    saved(model, tmp_path / "four")
    again = load_model(find_model(str(tmp_path / "four")), torch.float32, CPU, load_in_4bit=asked)
    assert quantization.is_4bit(again)
    assert (again.dtype, again.config.dtype) == (torch.float32, torch.float32)
    assert {layer.compute_dtype for layer in layers_of(again)} == {torch.float32}
    plain = [p for p in again.parameters() if not isinstance(p, bitsandbytes.nn.Params4bit)]
    assert {param.dtype for param in plain} == {torch.float32}
    assert {param.dtype for param in roles_of(again).adapters} == {torch.float32}
    for ours, theirs in zip(layers_of(again), layers_of(model), strict=True):
        assert torch.equal(ours.weight.data, theirs.weight.data)
    assert bool(again(input_ids=token_batch().input_ids).logits.isfinite().all())


def test_nothing_advises_to_install_another_package() -> None:
    code = "from ppokit import Recipe; import peft, sys; print('bitsandbytes' in sys.modules)"
    completed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (completed.stdout, completed.stderr) == ("True\n", "")


def test_what_stays_out_is_told(tmp_path: Path) -> None:
    """Experts are no linear layers: 3 x 4 x 3 x 512 x 256 numbers beside 3 x 2 x (256 + 128) x 256."""
    saved(tiny(MixtralForCausalLM, **SIZES, num_local_experts=4), tmp_path)
    with pytest.warns(
        PpokitWarning, match=r"model\.load_in_4bit: 89% of the inner weights .* the largest .*experts"
    ):
        in_four_bits(tmp_path)


class TestRefused:
    @pytest.mark.parametrize(
        ("quantised", "name"),
        [
            ({"quant_method": "gptq", "bits": 4}, "gptq"),
            ({"quant_method": "bitsandbytes", "load_in_8bit": True}, "bitsandbytes in 8 bits"),
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
        with pytest.raises(ModelError, match="lora: got none, and a base in 4 bits does not train"):
            ModelRoles(in_four_bits(checkpoint), lora=None, value=None, reference=False)

    def test_nothing_to_keep_in_four_bits(self, tmp_path: Path) -> None:
        saved(tiny(LlamaForCausalLM, **SIZES | {"num_hidden_layers": 0}), tmp_path)
        with pytest.raises(ModelError, match=r"model\.load_in_4bit: .* \(LlamaForCausalLM\) has no layers"):
            in_four_bits(tmp_path)

    def test_code_that_reads_a_layers_weights(
        self, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """As that of Mamba does, in newer transformers."""
        monkeypatch.setattr(LlamaMLP, "forward", lambda mlp, x: x @ mlp.up_proj.weight.T)
        with pytest.raises(ModelError, match=r"model\.load_in_4bit: .* does not compute in 4 bits"):
            in_four_bits(checkpoint)

    def test_an_output_layer_in_four_bits(self, checkpoint: Path, tmp_path: Path) -> None:
        config = BitsAndBytesConfig(load_in_4bit=True, llm_int8_skip_modules=[])
        model = LlamaForCausalLM.from_pretrained(checkpoint, quantization_config=config, device_map="cpu")
        saved(model, tmp_path / "all")
        with pytest.raises(ModelError, match=r"model\.name: the output layer \(lm_head\) of .* is in 4"):
            load_model(find_model(str(tmp_path / "all")), torch.float32, CPU)

    def test_without_bitsandbytes(
        self, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        saved(in_four_bits(checkpoint), tmp_path / "four")
        monkeypatch.setattr(quantization, "find_spec", lambda name: None)
        with pytest.raises(ModelError, match=r"model\.load_in_4bit: .*pip install 'ppokit\[quantized\]'"):
            in_four_bits(checkpoint)
        with pytest.raises(ModelError, match=r"model\.name: .*four is in 4 bits, but bitsandbytes"):
            load_config(find_model(str(tmp_path / "four")))

    def test_fitting_a_reward_on_it(self, checkpoint: Path, tmp_path: Path) -> None:
        saved(in_four_bits(checkpoint), tmp_path / "four")
        with pytest.raises(ModelError, match=r"--model .*four: its weights are quantised; expected the"):
            find_base(str(tmp_path / "four"))
