"""Logits behind the output layer: scaled, capped and narrowed ones, against the model's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import (
    BertLMHeadModel,
    Cohere2ForCausalLM,
    CohereForCausalLM,
    FalconH1ForCausalLM,
    Gemma2ForCausalLM,
    GraniteForCausalLM,
    LlamaForCausalLM,
    ModernBertDecoderForCausalLM,
    NanoChatForCausalLM,
    PreTrainedModel,
    ProphetNetConfig,
    ProphetNetForCausalLM,
    RecurrentGemmaForCausalLM,
    XmodForCausalLM,
)
from transformers.modeling_outputs import CausalLMOutput

from ppokit.errors import ModelError
from ppokit.models.logprobs import token_logprobs
from ppokit.models.roles import ModelRoles
from ppokit.plugin.output_head import LogitRule, final_states, logit_rule, next_token_logits, output_head
from small_models import tiny, tiny_llama
from small_roles import LORA, logprobs, policy_params, randomize, roles_of, token_batch

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")

MAMBA = {"mamba_d_ssm": 32, "mamba_n_heads": 4, "mamba_d_head": 8, "mamba_d_state": 8, "mamba_n_groups": 1}
NO_TOKENS = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
KINDS: list[tuple[type[PreTrainedModel], dict[str, Any], LogitRule]] = [
    (Gemma2ForCausalLM, {"head_dim": 16}, LogitRule(64, cap=30.0)),
    (
        RecurrentGemmaForCausalLM,
        {"lru_width": 32, "logits_soft_cap": 4.0, "num_hidden_layers": 3},
        LogitRule(64, cap=4.0),
    ),
    (NanoChatForCausalLM, {}, LogitRule(64, cap=15.0)),
    (Cohere2ForCausalLM, {}, LogitRule(64, scale=0.0625)),
    (GraniteForCausalLM, {"logits_scaling": 8.0}, LogitRule(64, scale=1 / 8)),  # a divisor
    (FalconH1ForCausalLM, {"lm_head_multiplier": 0.3, **MAMBA}, LogitRule(64, scale=0.3)),
    (ModernBertDecoderForCausalLM, {"cls_token_id": 3, "sep_token_id": 4}, LogitRule(64)),  # more below it
    (BertLMHeadModel, {"is_decoder": True}, LogitRule(64)),
]


def strong(kind: type[PreTrainedModel], settings: dict[str, Any]) -> PreTrainedModel:
    """One whose logits are large enough for caps to matter."""
    sizes = {
        "vocab_size": 64,
        "num_key_value_heads": 2,
        "initializer_range": 0.2,
        "max_position_embeddings": 64,
    }
    model = tiny(kind, **{**sizes, **NO_TOKENS, **settings})
    with torch.no_grad():
        output_head(model).weight.mul_(5)
    return model


@pytest.mark.parametrize(("kind", "settings", "rule"), KINDS, ids=[kind.__name__ for kind, *_ in KINDS])
def test_the_models_own_numbers(
    kind: type[PreTrainedModel], settings: dict[str, Any], rule: LogitRule
) -> None:
    """Log-probabilities, entropies and gradients of all weights; and the next token's logits."""
    model = strong(kind, settings)
    batch = token_batch()
    logits = model(input_ids=batch.input_ids, use_cache=False).logits[batch.rows, batch.positions]
    expected = torch.distributions.Categorical(logits=logits / 0.7)
    weights = torch.linspace(-1, 2, len(batch.rows))
    chosen, entropies = expected.log_prob(batch.targets), expected.entropy()
    params = [p for p in model.parameters() if p.requires_grad]
    theirs = gradients((weights * (chosen + 0.3 * entropies)).sum(), params)
    roles = roles_of(model, lora=None, value=None, reference=False)
    assert logit_rule(model) == rule
    ours, entropy = roles.logprobs(batch, "policy", temperature=0.7, entropy="gradient")
    torch.testing.assert_close(ours[batch.mask], chosen, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(entropy[batch.mask], entropies, atol=1e-5, rtol=1e-5)
    loss = (weights * (ours[batch.mask] + 0.3 * entropy[batch.mask])).sum()
    for mine, wanted in zip(gradients(loss, params), theirs, strict=True):
        torch.testing.assert_close(mine, wanted, atol=1e-5 * float(wanted.abs().max() + 1), rtol=1e-4)
    with torch.no_grad():
        ids = torch.tensor([[5, 7, 9, 11], [9, 8, 7, 6]])
        last, _ = next_token_logits(model, input_ids=ids)
        torch.testing.assert_close(last, model(input_ids=ids).logits[:, -1], atol=2e-5, rtol=1e-5)


def gradients(loss: Tensor, params: list[Tensor]) -> list[Tensor]:
    found = torch.autograd.grad(loss, params, allow_unused=True)
    return [torch.zeros_like(p) if g is None else g for g, p in zip(found, params, strict=True)]


def test_lora_on_a_capped_model() -> None:
    roles = roles_of(strong(Gemma2ForCausalLM, {"head_dim": 16}))
    randomize(policy_params(roles))
    batch = token_batch()
    with torch.no_grad():
        logits = roles.sampler()(input_ids=batch.input_ids).logits[batch.rows, batch.positions]
        expected = logits.log_softmax(-1).gather(1, batch.targets[:, None])[:, 0]
        torch.testing.assert_close(logprobs(roles)[batch.mask], expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_scale_and_cap_by_hand(temperature: float) -> None:
    """Logits of 3 tanh(2 z / 3) of z = (1, -1): 3 tanh(2/3) and its negative."""
    head = torch.nn.Linear(1, 3, bias=False)
    with torch.no_grad():
        head.weight.copy_(torch.tensor([[1.0], [-1.0], [50.0]]))
    rule = LogitRule(2, scale=2.0, cap=3.0)  # the third is no token
    hidden = torch.ones(1, 1, requires_grad=True)
    result, _ = token_logprobs(
        hidden, head, torch.tensor([0]), temperature=temperature, entropy="none", rule=rule
    )
    bound = torch.tanh(torch.tensor(2 / 3))
    chance = torch.sigmoid(2 * 3 * bound / temperature)
    torch.testing.assert_close(result[0], chance.log())
    (slope,) = torch.autograd.grad(result.sum(), hidden)
    # d log sigmoid(u) = (1 - p) du,  u = 6 tanh(2 h / 3) / temperature
    torch.testing.assert_close(slope[0, 0], (1 - chance) * 4 * (1 - bound**2) / temperature)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    ("kind", "settings", "rule"),
    [
        (CohereForCausalLM, {"logit_scale": 1.02}, LogitRule(64, scale=1.02)),
        (GraniteForCausalLM, {"logits_scaling": 1.02}, LogitRule(64, scale=1 / 1.02)),
        (Gemma2ForCausalLM, {"head_dim": 16, "final_logit_softcapping": 400.0}, LogitRule(64, cap=400.0)),
    ],
)
def test_factors_that_change_little(
    kind: type[PreTrainedModel], settings: dict[str, Any], rule: LogitRule, dtype: torch.dtype
) -> None:
    model = tiny(kind, **{"vocab_size": 64, "num_key_value_heads": 2, **NO_TOKENS, **settings}).to(dtype)
    assert logit_rule(model) == rule


@pytest.mark.parametrize("size", [1, 2, 3])
def test_vocabularies_of_a_few_tokens(size: int) -> None:
    model = tiny(LlamaForCausalLM, vocab_size=size, num_key_value_heads=2)
    assert ModelRoles(model, lora=LORA, value=None, reference=False).sampler() is not None


def test_models_that_need_more_than_a_text_or_predict_several_tokens() -> None:
    with pytest.raises(ModelError, match=r"model\.name: Xmod.* does not run .*Input language unknown"):
        logit_rule(tiny(XmodForCausalLM, is_decoder=True))
    sizes = {
        "hidden_size": 32,
        "decoder_ffn_dim": 64,
        "num_decoder_layers": 1,
        "num_decoder_attention_heads": 2,
    }
    config = ProphetNetConfig(vocab_size=64, is_decoder=True, add_cross_attention=False, **sizes)
    with pytest.raises(ModelError, match=r"model\.name: .* reads states of the shape \[1, 2, 4, 32\]"):
        logit_rule(ProphetNetForCausalLM(config).eval())


def test_the_vocabulary_may_be_narrower_than_the_layer() -> None:
    class Narrow(LlamaForCausalLM):
        def forward(self, *args: Any, **inputs: Any) -> Any:
            output = super().forward(*args, **inputs)
            output.logits = output.logits[..., :50]
            return output

    model = strong(Narrow, {})
    roles, batch = roles_of(model), token_batch()
    logits = model(input_ids=batch.input_ids).logits[batch.rows, batch.positions].log_softmax(-1)
    expected = logits.gather(1, batch.targets[:, None])[:, 0]
    torch.testing.assert_close(logprobs(roles)[batch.mask], expected, atol=1e-5, rtol=1e-5)


def test_states_that_are_scaled_before_the_layer() -> None:
    """As MiniCPM's: the layer's input is taken where the layer reads it."""

    class Scaled(LlamaForCausalLM):
        def forward(self, input_ids: Any = None, use_cache: bool = False, **_: Any) -> Any:
            output = self.model(input_ids=input_ids)
            return CausalLMOutput(logits=self.lm_head(output.last_hidden_state / 4))

    model = strong(Scaled, {})
    expected = model(input_ids=torch.tensor([[1, 7, 8]])).logits[:, -1]
    actual, _ = next_token_logits(model, input_ids=torch.tensor([[1, 7, 8]]))
    torch.testing.assert_close(actual, expected)
    roles, batch = roles_of(model), token_batch()
    logits = model(input_ids=batch.input_ids).logits[batch.rows, batch.positions].log_softmax(-1)
    torch.testing.assert_close(
        logprobs(roles)[batch.mask], logits.gather(1, batch.targets[:, None])[:, 0], atol=1e-5, rtol=1e-5
    )


def test_a_fitted_head_would_read_other_states(tmp_path: Path) -> None:
    roles = roles_of(strong(BertLMHeadModel, {"is_decoder": True}), value=None)
    with pytest.raises(ModelError, match=r"shared_base: BertLMHeadModel changes its last hidden states"):
        roles.add_fitted(tmp_path, "reward", key="shared_base")


def test_a_model_whose_base_is_itself() -> None:
    """Remote code may name no base model; its backbone's output may have fields of its own."""

    class Alone(LlamaForCausalLM):
        base_model_prefix = ""

    model = tiny(Alone, vocab_size=64)
    assert model.base_model is model
    with torch.no_grad():
        ids = torch.tensor([[1, 7, 8]])
        torch.testing.assert_close(final_states(model, input_ids=ids)[0], model.model(ids).last_hidden_state)
    assert logprobs(roles_of(model)).isfinite().all()


def test_what_is_no_causal_language_model_is_refused() -> None:
    with pytest.raises(
        ModelError, match=r"model\.name: BertLMHeadModel reads what comes after a token.*is_dec"
    ):
        roles_of(strong(BertLMHeadModel, {"is_decoder": False}))
    model = tiny_llama()
    model.get_output_embeddings = lambda: None  # type: ignore[method-assign]
    with pytest.raises(ModelError, match=r"model\.name: LlamaForCausalLM has no output layer"):
        roles_of(model)


def test_an_output_layer_that_is_not_called_or_not_linear() -> None:
    model = tiny_llama()
    model.lm_head.forward = lambda hidden: torch.nn.functional.linear(hidden, model.lm_head.weight) ** 3 / 10
    with pytest.raises(ModelError, match=r"model\.name: the logits of LlamaForCausalLM are not those"):
        roles_of(model)

    class Uncalled(LlamaForCausalLM):
        def forward(self, input_ids: Any = None, use_cache: bool = False, **_: Any) -> Any:
            return CausalLMOutput(logits=self.model(input_ids).last_hidden_state @ self.lm_head.weight.T)

    with pytest.raises(ModelError, match=r"model\.name: Uncalled calls its output layer 0 times"):
        roles_of(tiny(Uncalled))
