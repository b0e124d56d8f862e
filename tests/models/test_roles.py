"""Four roles of one base: each against the same model run by transformers and peft alone."""

from __future__ import annotations

import copy
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from peft import AutoPeftModelForCausalLM, LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import (
    LlamaForCausalLM,
    MambaForCausalLM,
    OPTForCausalLM,
)

from ppokit.config.settings import LoraSettings
from ppokit.data.batches import TokenBatch
from ppokit.errors import ModelError
from ppokit.kernels import attention
from ppokit.models.memory_audit import byte_audit, cache_bytes
from ppokit.models.roles import ModelRoles, ValueMode
from ppokit.models.shared_base import SharedBaseModel
from small_models import tiny, tiny_gpt2, tiny_llama
from small_roles import (
    LORA,
    logprobs,
    policy_params,
    randomize,
    roles_of,
    save_adapter,
    token_batch,
)

# peft 0.21 asks transformers 5 for a property by its old name.
pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")

torch.set_num_threads(1)  # on such small tensors, several threads mostly wait for each other
CPU = torch.device("cpu")
MODES: tuple[ValueMode, ...] = ("own_adapter", "policy_trunk", "detached_trunk")


def by_row(model: Any, batch: TokenBatch, temperature: float = 1.0) -> Tensor:
    """Oracle: each sequence alone through the whole model, without padding, [b,R]."""
    out = torch.zeros(batch.mask.shape)
    for row, real in enumerate(batch.mask):
        n = int(real.sum())
        first = int(batch.positions[batch.rows == row][0]) + 1
        ids = batch.input_ids[row : row + 1, : first + n]
        logps = (model(input_ids=ids).logits[0].float() / temperature).log_softmax(-1)
        out[row, :n] = logps[first - 1 : first + n - 1].gather(-1, ids[0, first:, None]).squeeze(-1)
    return out


class TestTokenBatch:
    def test_by_hand(self) -> None:
        mask = torch.tensor([[True, True, False], [True, False, False]])
        batch = TokenBatch.build([[5], [6, 7, 8]], torch.tensor([[1, 2, 0], [3, 0, 0]]), mask, CPU)
        assert batch.input_ids.tolist() == [[5, 1, 2, 0], [6, 7, 8, 3]]
        assert batch.rows.tolist() == [0, 0, 1]
        assert batch.positions.tolist() == [0, 1, 2]
        assert batch.targets.tolist() == [1, 2, 3]
        flat = torch.tensor([10.0, 20.0, 30.0], requires_grad=True)
        whole = batch.scatter(flat)
        assert whole.tolist() == [[10.0, 20.0, 0.0], [30.0, 0.0, 0.0]]
        (whole * torch.tensor([[1.0, 2.0, 9.0], [3.0, 9.0, 9.0]])).sum().backward()
        assert flat.grad is not None
        assert flat.grad.tolist() == [1.0, 2.0, 3.0]


class TestPolicyAndReference:
    @pytest.mark.parametrize("make", [tiny_llama, tiny_gpt2])
    @pytest.mark.filterwarnings("ignore:fan_in_fan_out:UserWarning")
    def test_the_reference_is_the_policy_at_first(self, make: Any) -> None:
        pristine = copy.deepcopy(make())
        roles = roles_of(make())
        policy, reference = logprobs(roles), logprobs(roles, "reference")
        assert torch.equal(policy, reference)
        torch.testing.assert_close(policy, by_row(pristine, token_batch()), atol=1e-4, rtol=1e-4)

    @pytest.mark.parametrize("lora", [LORA, None])
    def test_a_step_moves_the_policy_and_not_the_reference(self, lora: LoraSettings | None) -> None:
        pristine = copy.deepcopy(tiny_llama())
        roles = roles_of(lora=lora, value=None)
        before = logprobs(roles, "reference").detach()
        optimizer = torch.optim.SGD(list(roles.trainable.values()), lr=0.1)
        for _ in range(2):  # LoRA's A moves from the second step on
            optimizer.zero_grad()
            (-logprobs(roles).sum()).backward()
            optimizer.step()
        after = logprobs(roles).detach()
        assert torch.equal(logprobs(roles, "reference"), before)
        torch.testing.assert_close(before, by_row(pristine, token_batch()), atol=1e-4, rtol=1e-4)
        assert after.sum().item() > before.sum().item() + 0.1

    def test_adapters_off_is_the_pristine_base(self) -> None:
        pristine = copy.deepcopy(tiny_llama())
        roles = roles_of()
        randomize(roles.trainable.values())
        reference = logprobs(roles, "reference")
        assert torch.equal(
            reference, roles_of(pristine).logprobs(token_batch(), "reference", temperature=1.0)[0]
        )
        assert not torch.allclose(logprobs(roles), reference, atol=1e-2)
        assert torch.equal(logprobs(roles, "reference"), reference)  # also after the policy's turn

    def test_temperature_and_entropy(self) -> None:
        roles = roles_of()
        randomize(policy_params(roles))
        batch = token_batch()
        actual, entropies = roles.logprobs(batch, "policy", temperature=0.6, entropy="value")
        model = roles.sampler()
        torch.testing.assert_close(actual, by_row(model, batch, 0.6), atol=1e-4, rtol=1e-4)
        logits = model(input_ids=batch.input_ids).logits[batch.rows, batch.positions] / 0.6
        expected = torch.distributions.Categorical(logits=logits).entropy()
        torch.testing.assert_close(entropies[batch.mask], expected, atol=1e-4, rtol=1e-4)
        assert entropies[~batch.mask].abs().sum().item() == 0.0

    @pytest.mark.parametrize("extra", [1, 7, 40])
    def test_padding_changes_nothing(self, extra: int) -> None:
        roles = roles_of()
        randomize(roles.trainable.values())
        narrow, padded = token_batch(), token_batch(5 + extra)
        # A long neighbour adds padding to the input as well.
        mask = torch.zeros(4, 5 + extra, dtype=torch.bool)
        mask[:3], mask[3] = padded.mask, True
        answers = torch.full((4, 5 + extra), 3)
        answers[mask] = torch.cat([padded.targets, torch.full((5 + extra,), 4)])
        with_neighbour = TokenBatch.build([[1, 7, 8, 9], [5], [1, 33], [6] * 20], answers, mask, CPU)
        for compute in (lambda b: logprobs(roles, batch=b), roles.values):
            expected = compute(narrow)
            torch.testing.assert_close(compute(padded)[:, :5], expected, atol=1e-5, rtol=1e-5)
            torch.testing.assert_close(compute(with_neighbour)[:3, :5], expected, atol=1e-5, rtol=1e-5)
            assert compute(padded)[:, 5:].abs().sum().item() == 0.0

    @pytest.mark.parametrize("targets", ["all-linear", ["q_proj", "down_proj"]])
    def test_a_pretrained_adapter_is_its_own_reference(self, tmp_path: Path, targets: Any) -> None:
        """trl#495: the reference is the adapter's model and not the base beneath it.

        The adapter may cover fewer modules than the value function's, which is the recipe's own.
        """
        batch = token_batch()
        expected = by_row(save_adapter(tmp_path, targets), batch)
        roles = roles_of(lora=LORA.model_copy(update={"adapter": str(tmp_path)}))
        torch.testing.assert_close(by_row(roles.sampler(), batch), expected, atol=1e-4, rtol=1e-4)
        assert roles.values(batch).abs().sum().item() == 0.0
        torch.testing.assert_close(logprobs(roles, "reference"), expected, atol=1e-4, rtol=1e-4)
        assert torch.equal(logprobs(roles), logprobs(roles, "reference"))
        assert not torch.allclose(expected, by_row(tiny_llama(), batch), atol=1e-2)
        optimizer = torch.optim.SGD(policy_params(roles), lr=0.1)
        (-logprobs(roles).sum()).backward()
        optimizer.step()
        torch.testing.assert_close(logprobs(roles, "reference"), expected, atol=1e-4, rtol=1e-4)
        assert not torch.allclose(logprobs(roles), expected, atol=1e-3)
        assert not any("reference" in name for name in roles.trainable)

    @pytest.mark.filterwarnings("ignore:fan_in_fan_out:UserWarning")
    def test_an_adapter_that_was_trained_with_dropout_has_none_here(self, tmp_path: Path) -> None:
        """Its layers have biases, which peft's own forward computes, dropout included."""
        config = LoraConfig(r=4, target_modules=["c_attn", "c_fc"], task_type="CAUSAL_LM", lora_dropout=0.5)
        adapted = get_peft_model(tiny_gpt2(), config)
        randomize([p for n, p in adapted.named_parameters() if "lora_" in n])
        adapted.save_pretrained(str(tmp_path))
        batch = token_batch()
        roles = roles_of(
            tiny_gpt2(),
            lora=LORA.model_copy(update={"adapter": str(tmp_path)}),
            reference=False,
        )
        assert torch.equal(logprobs(roles), logprobs(roles))
        torch.testing.assert_close(by_row(roles.sampler(), batch), logprobs(roles), atol=1e-4, rtol=1e-4)

        head = {"head.weight": torch.randn(1, 32)}
        weights = load_file(tmp_path / "adapter_model.safetensors")
        save_file({**weights, **head}, tmp_path / "adapter_model.safetensors")
        roles.add_fitted(tmp_path, "fitted", key="rewards[0].model")
        once, again = (roles.hidden(batch, "fitted") for _ in range(2))
        assert torch.equal(once, again)
        assert not torch.equal(once, roles.hidden(batch, "base"))

    def test_full_fine_tuning_trains_everything_but_the_frozen_copy(self) -> None:
        roles = roles_of(lora=None, value="policy_trunk")
        assert len(policy_params(roles)) == len(list(tiny_llama().parameters()))
        assert not logprobs(roles, "reference").requires_grad
        (-logprobs(roles).sum()).backward()
        assert all(p.grad is not None for p in policy_params(roles))


class TestValue:
    @pytest.mark.parametrize("mode", MODES)
    def test_values_are_zero_at_first_and_then_the_heads(self, mode: ValueMode) -> None:
        batch = token_batch()
        roles = roles_of(value=mode)
        assert roles.values(batch).abs().sum().item() == 0.0
        randomize(roles.trainable.values())
        head = roles.value_head
        assert head is not None
        wanted = "value" if mode == "own_adapter" else "policy"
        trunk = peft_twin(roles, wanted)
        hidden = trunk.base_model.model.model(input_ids=batch.input_ids).last_hidden_state
        expected = batch.scatter(head(hidden[batch.rows, batch.positions]).squeeze(-1))
        torch.testing.assert_close(roles.values(batch), expected, atol=1e-4, rtol=1e-4)
        together = roles.logprobs_and_values(batch, temperature=1.0)
        torch.testing.assert_close(together[2], expected, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(together[0], logprobs(roles), atol=1e-5, rtol=1e-5)

    @pytest.mark.parametrize("together", [True, False])
    @pytest.mark.parametrize("mode", MODES)
    def test_where_the_gradient_goes(self, mode: ValueMode, together: bool) -> None:
        roles = roles_of(value=mode)
        randomize(roles.trainable.values())
        batch = token_batch()
        values = roles.logprobs_and_values(batch, temperature=1.0)[2] if together else roles.values(batch)
        values.square().sum().backward()
        moved = {name for name, p in roles.trainable.items() if p.grad is not None and p.grad.abs().sum() > 0}
        policy = {name for name in roles.trainable if roles.is_policy(name)}
        heads = {"value_head.weight", "value_head.bias"}
        adapter = set(roles.trainable) - policy - heads
        assert (
            moved
            == {
                "own_adapter": heads | adapter,
                "policy_trunk": heads | policy,
                "detached_trunk": heads,
            }[mode]
        )
        assert bool(adapter) == (mode == "own_adapter")

    @pytest.mark.parametrize(
        ("targets", "layers"),
        [
            ("all-linear", {"4", "5"}),
            (["q_proj"], {"4", "5"}),
            (r".*layers\.0\..*proj", {"0"}),  # nothing above: then all of it
        ],
    )
    def test_the_adapter_stands_on_the_upper_third(self, targets: Any, layers: set[str]) -> None:
        roles = roles_of(
            tiny_llama(num_hidden_layers=6), lora=LORA.model_copy(update={"target_modules": targets})
        )
        names = [name for name in roles.trainable if ".value." in name]
        assert {name.split(".layers.")[1][0] for name in names} == layers

    def test_the_lower_layers_keep_nothing_for_a_gradient(self) -> None:
        roles = roles_of()
        seen = []
        for layer in roles.model.model.layers:
            layer.register_forward_hook(lambda _, __, out: seen.append(out))
        roles.values(token_batch())
        assert [(out[0] if isinstance(out, tuple) else out).requires_grad for out in seen] == [False, True]

    def test_the_roles_do_not_switch_off_each_others_training(self) -> None:
        """trl#6700: whichever role comes last, everything that trains still does."""
        roles = roles_of()
        randomize(roles.trainable.values())
        batch = token_batch()
        for order in (("policy", "value", "reference"), ("reference", "value", "policy")):
            for role in order:
                roles.values(batch) if role == "value" else logprobs(roles, role)
                assert all(param.requires_grad for param in roles.trainable.values()), role
        policy, values = logprobs(roles), roles.values(batch)
        with torch.no_grad():
            logprobs(roles, "reference")
        (policy.sum() + values.sum()).backward()
        for name, param in roles.trainable.items():
            assert param.grad is not None, name
            assert param.grad.abs().sum().item() > 0, name
        # Each loss reaches its own adapter as it would alone.
        both = {name: p.grad.clone() for name, p in roles.trainable.items()}  # type: ignore[union-attr]
        for param in roles.trainable.values():
            param.grad = None
        logprobs(roles).sum().backward()
        roles.values(batch).sum().backward()
        for name, param in roles.trainable.items():
            torch.testing.assert_close(param.grad, both[name])

    def test_nothing_but_adapters_and_heads_trains(self) -> None:
        roles = roles_of()
        ours = {id(p) for p in roles.trainable.values()}
        assert [n for n, p in roles.model.named_parameters() if p.requires_grad and id(p) not in ours] == []


def peft_twin(roles: ModelRoles, adapter: str) -> PeftModel:
    """The same base with one of the adapters, as a PeftModel that ppokit never touched."""
    spec = roles.lora
    assert spec is not None
    config = LoraConfig(
        r=spec.r, lora_alpha=spec.alpha, target_modules=spec.target_modules, task_type="CAUSAL_LM"
    )
    twin = get_peft_model(tiny_llama(), config)
    numbers = {
        name.replace(f".{adapter}.", ".default."): param
        for name, param in roles.trainable.items()
        if f".{adapter}." in name
    }
    own = {n: p for n, p in twin.base_model.model.named_parameters() if "lora_" in n}
    # The value function's adapter stands on the upper one of two layers.
    assert set(numbers) == {n for n in own if adapter == "policy" or ".layers.1." in n}
    with torch.no_grad():
        for name, number in numbers.items():
            own[name].copy_(number)
    return twin.eval()


class TestLora:
    @pytest.mark.parametrize("bias", [False, True])
    def test_forward_and_gradients_are_pefts(self, bias: bool) -> None:
        """Layers without a bias take the fused path, those with one peft's own."""
        torch.manual_seed(3)
        batch = token_batch()
        base = tiny_llama(attention_bias=bias)
        twin_base = copy.deepcopy(base)
        roles = roles_of(base, value=None)
        config = LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM")
        twin = get_peft_model(twin_base, config).eval()
        pairs = dict(roles.trainable)
        randomize(pairs.values())
        own = {n.replace(".default.", ".policy."): p for n, p in twin.base_model.model.named_parameters()}
        with torch.no_grad():
            for name, param in pairs.items():
                own[name].copy_(param)
        ours, theirs = logprobs(roles), by_row(twin, batch)
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)
        weights = torch.linspace(-1, 1, 15).view(3, 5)
        (ours * weights).sum().backward()
        (theirs * weights).sum().backward()
        for name, param in pairs.items():
            torch.testing.assert_close(param.grad, own[name].grad, atol=2e-4, rtol=2e-3, msg=name)

    def test_no_module_to_adapt(self) -> None:
        with pytest.raises(ModelError, match="lora: Target modules"):
            roles_of(lora=LoraSettings(r=4, alpha=8, target_modules=["no_such_layer"]))

    @pytest.mark.parametrize("make", [tiny_llama, tiny_gpt2])
    @pytest.mark.filterwarnings("ignore:fan_in_fan_out:UserWarning")
    def test_the_saved_policy_is_plain_peft(self, tmp_path: Path, make: Any) -> None:
        base = make()
        base.save_pretrained(tmp_path / "base")
        base = type(base).from_pretrained(tmp_path / "base").eval()  # so that the adapter names its base
        roles = roles_of(base)
        randomize(roles.trainable.values())
        for _ in range(2):  # as for a server, into the same folder
            roles.save_policy(tmp_path / "run")
        assert not [path for path in (tmp_path / "run").iterdir() if path.is_dir()]
        loaded = AutoPeftModelForCausalLM.from_pretrained(str(tmp_path / "run")).eval()
        batch = token_batch()
        torch.testing.assert_close(by_row(loaded, batch), logprobs(roles), atol=1e-4, rtol=1e-4)
        assert not torch.allclose(logprobs(roles), logprobs(roles, "reference"), atol=1e-2)

    def test_the_saved_policy_without_lora_is_a_checkpoint(self, tmp_path: Path) -> None:
        roles = roles_of(lora=None, value="policy_trunk")
        randomize([roles.trainable["model.norm.weight"]])
        roles.save_policy(tmp_path)
        loaded = LlamaForCausalLM.from_pretrained(tmp_path).eval()
        torch.testing.assert_close(by_row(loaded, token_batch()), logprobs(roles), atol=1e-4, rtol=1e-4)


class TestSampler:
    @pytest.mark.parametrize("make", [tiny_llama, tiny_gpt2])
    @pytest.mark.filterwarnings("ignore:fan_in_fan_out:UserWarning")
    def test_merged_is_the_policy_and_the_base_stays(self, make: Any) -> None:
        roles = roles_of(make())
        base = {n: p.detach().clone() for n, p in roles.model.named_parameters() if "lora_" not in n}
        batch = token_batch()
        for turn in range(20):
            randomize(policy_params(roles), seed=turn)
            model = roles.sampler()
        torch.testing.assert_close(by_row(model, batch), logprobs(roles), atol=1e-4, rtol=1e-4)
        for name, param in roles.model.named_parameters():
            if name in base:
                assert torch.equal(param, base[name]), name
        assert not any("lora_" in name for name, _ in model.named_parameters())

    def test_bf16_does_not_drift(self) -> None:
        """trl#6688: after any number of merges the weights are those of one."""
        roles = roles_of(tiny_llama(dtype=torch.bfloat16))
        for turn in range(20):
            randomize(policy_params(roles), seed=turn)
            merged = roles.sampler()
        actual = {n: p.clone() for n, p in merged.named_parameters()}
        fresh = roles_of(tiny_llama(dtype=torch.bfloat16))
        randomize(policy_params(fresh), seed=19)
        for name, param in fresh.sampler().named_parameters():
            assert torch.equal(param, actual[name]), name
        for param in policy_params(roles):
            param.data.zero_()
        pristine = dict(tiny_llama(dtype=torch.bfloat16).named_parameters())
        for name, param in roles.sampler().named_parameters():
            assert torch.equal(param, pristine[name]), name

    def test_what_is_not_adapted_is_shared(self) -> None:
        roles = roles_of(lora=LoraSettings(r=4, alpha=8, target_modules=["q_proj"]))
        embeddings = roles.model.get_input_embeddings().weight
        assert roles.sampler().get_input_embeddings().weight.data_ptr() == embeddings.data_ptr()

    def test_without_lora_it_is_the_model(self) -> None:
        roles = roles_of(lora=None)
        logprobs(roles)
        assert roles.sampler() is roles.model


def test_short_and_long_attention_agree() -> None:
    """The same tokens in a batch that is short, and in one that a neighbour makes long."""
    roles = roles_of()
    randomize(roles.trainable.values())
    short = token_batch()
    expected = logprobs(roles)
    width = attention.LONGEST + 10
    mask = torch.zeros(4, width, dtype=torch.bool)
    mask[:3, :5], mask[3] = short.mask, True
    answers = torch.full((4, width), 3)
    answers[:3, :5].masked_scatter_(short.mask, short.targets)
    long = TokenBatch.build([[1, 7, 8, 9], [5], [1, 33], [6]], answers, mask, CPU)
    actual = logprobs(roles, batch=long)
    torch.testing.assert_close(actual[:3, :5], expected, atol=1e-5, rtol=1e-5)
    assert torch.equal(logprobs(roles), expected)


@pytest.mark.parametrize("change", [lambda logits: logits * 0.5, lambda logits: 5 * torch.tanh(logits / 5)])
def test_logits_that_no_key_of_the_configuration_explains_are_refused(change: Any) -> None:
    model = tiny_llama()
    plain = model.forward

    def forward(*args: Any, **kwargs: Any) -> Any:
        output = plain(*args, **kwargs)
        output.logits = change(output.logits)
        return output

    model.forward = forward
    with pytest.raises(ModelError, match="LlamaForCausalLM changes its logits"):
        roles_of(model)


def test_byte_audit_by_hand() -> None:
    """Per layer: q and o 32x32, k and v 32x16, three of the MLP 32x48; two norms of 32."""
    linear = [(32, 32), (32, 32), (32, 16), (32, 16), (32, 48), (32, 48), (48, 32)]
    layer = sum(a * b for a, b in linear) + 64
    base = 64 * 32 * 2 + 2 * layer + 32
    adapter = 2 * sum(4 * (a + b) for a, b in linear)
    cache = 2 * 2 * 2 * 8 * 10  # keys and values, layers, heads, width, tokens
    audit = byte_audit(roles_of(), optimizer_bytes=123, cache_tokens=10, update_tokens=0)
    assert audit == {
        "base": 4 * base,
        "frozen reference": 0,
        "adapters": 4 * (adapter + adapter // 2),
        "heads": 4 * 33,
        "merged sampler": 4 * 2 * sum(a * b for a, b in linear),
        "optimizer": 123,
        "key-value cache": 4 * cache,
        "activations": 0,
    }
    half = byte_audit(roles_of(tiny_llama(dtype=torch.bfloat16), value=None), 0, 10, 0)
    assert (half["base"], half["adapters"], half["heads"]) == (2 * base, 2 * adapter, 0)
    whole = byte_audit(roles_of(lora=None, value="policy_trunk"), 0, 0, 0)
    assert (whole["base"], whole["frozen reference"]) == (4 * base, 4 * base)
    assert (whole["adapters"], whole["merged sampler"]) == (0, 0)
    tied = byte_audit(roles_of(tiny_llama(tie_word_embeddings=True), value=None), 0, 0, 0)
    assert tied["base"] == 4 * (base - 64 * 32)


def test_the_cache_is_measured_where_layers_differ() -> None:
    """Mamba keeps a state of each text and no keys; Gemma 4's layers have heads of their own."""
    mamba = tiny(MambaForCausalLM, num_hidden_layers=2, state_size=8)
    del mamba.config.num_attention_heads  # of `tiny`
    assert cache_bytes(mamba) == 0
    if not hasattr(transformers, "Gemma4ForCausalLM"):
        return  # older versions have no such layers
    sizes = {"head_dim": 16, "num_key_value_heads": 1, "hidden_size_per_layer_input": 0}
    types = ["sliding_attention", "full_attention"]
    gemma = tiny(transformers.Gemma4ForCausalLM, **sizes, layer_types=types, vocab_size_per_layer_input=13)
    assert cache_bytes(gemma) > 0


def test_a_value_head_on_states_narrower_than_hidden_size() -> None:
    """OPT-350m's states are projected to the width of its embeddings."""
    model = tiny(OPTForCausalLM, ffn_dim=64, word_embed_proj_dim=16, do_layer_norm_before=False)
    roles = roles_of(model, value="own_adapter")
    assert roles.value_head is not None
    assert roles.value_head.in_features == 16


def test_no_reference_is_kept_where_none_is_asked_for() -> None:
    assert byte_audit(roles_of(lora=None, value=None, reference=False), 0, 0, 0)["frozen reference"] == 0


def test_building_gives_no_warning() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        roles_of()


def test_a_deep_copy_computes_with_its_own_adapters() -> None:
    roles = roles_of()
    randomize(policy_params(roles))
    other = copy.deepcopy(roles.model)
    with torch.no_grad():
        for name, param in other.named_parameters():
            if "lora_" in name:
                param.zero_()
    ids = torch.tensor([[1, 7, 8, 9]])
    logprobs(roles)  # leaves the policy's adapter on
    with torch.no_grad():
        torch.testing.assert_close(other(ids).logits, tiny_llama()(ids).logits)
        assert (roles.model(ids).logits - other(ids).logits).abs().max() > 0.1


@pytest.mark.parametrize("targets", [["q_proj", "lm_head"], r".*(lm_head|q_proj)"])
def test_an_adapter_on_the_output_layer_is_refused(targets: Any) -> None:
    with pytest.raises(ModelError, match=r"lora.target_modules: an adapter on the output layer \(lm_head\)"):
        roles_of(lora=LORA.model_copy(update={"target_modules": targets}))


def test_the_base_is_no_pretrained_adapter(tmp_path: Path) -> None:
    """Vectors of texts are the base's, also where the policy and its reference go on from an adapter."""
    save_adapter(tmp_path / "trained", "all-linear")
    spec = LoraSettings(r=4, alpha=8, target_modules="all-linear", adapter=str(tmp_path / "trained"))
    actual = SharedBaseModel(roles_of(lora=spec), 40).embed([[1, 7, 8]])
    with torch.no_grad():
        mean = tiny_llama().model(torch.tensor([[1, 7, 8]])).last_hidden_state[0].mean(dim=0)
    torch.testing.assert_close(actual[0], mean / mean.norm())


def test_a_reward_in_a_thread_reads_with_the_base_beside_the_passes() -> None:
    """Each has its own role's numbers, whoever was last."""
    roles = roles_of()
    randomize(policy_params(roles))
    shared, texts = SharedBaseModel(roles, 40), [[1, 7, 8, 9, 3]]
    with torch.no_grad():
        expected = logprobs(roles)
        vector = shared.embed(texts)
        with ThreadPoolExecutor(2) as threads:
            others = [threads.submit(shared.embed, texts) for _ in range(60)]
            own = [logprobs(roles) for _ in range(60)]
    assert all(torch.equal(numbers, expected) for numbers in own)
    assert all(torch.equal(other.result(), vector) for other in others)


def test_layers_that_are_called_as_an_adapter_are_saved(tmp_path: Path) -> None:
    """As those of RWKV, whose layers `value` peft would take for the value function's adapter."""
    from safetensors.torch import load_file
    from transformers import RwkvConfig, RwkvForCausalLM

    sizes = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "attention_hidden_size": 32}
    roles = roles_of(RwkvForCausalLM(RwkvConfig(**sizes)).eval())
    roles.save_policy(tmp_path)
    saved = load_file(tmp_path / "adapter_model.safetensors")
    assert len(saved) == len(policy_params(roles))
    assert any(".value." in name for name in saved)
