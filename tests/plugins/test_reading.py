"""The engine on models that differ in what they keep of a text: always what plain forwards of it say."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    BartConfig,
    Gemma2Config,
    MambaConfig,
    OpenAIGPTConfig,
    PreTrainedModel,
    Qwen3_5TextConfig,
    RobertaConfig,
)

from policies import policy_of
from ppokit.errors import PpokitWarning
from ppokit.plugin.generation import Generation, GenerationRequest, SamplingParams
from ppokit.plugin.types import PromptBatch
from ppokit_rollouts.reading import reading_of
from ppokit_rollouts.transformers_engine import TransformersEngine, TransformersOptions
from small_models import CACHE, tiny_gpt2, tiny_llama

IDS = {"vocab_size": 64, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 40}
SIZES = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
CONFIGS: dict[str, Callable[[], Any]] = {
    "hybrid": lambda: Qwen3_5TextConfig(
        **IDS,
        **SIZES,
        num_key_value_heads=2,
        head_dim=8,
        linear_num_value_heads=4,
        linear_num_key_heads=2,
        linear_key_head_dim=8,
        linear_value_head_dim=8,
        layer_types=["linear_attention", "full_attention"],
    ),
    "positions-by-column": lambda: BartConfig(
        **IDS,
        d_model=32,
        decoder_layers=2,
        decoder_attention_heads=4,
        decoder_ffn_dim=48,
        encoder_layers=1,  # of which transformers makes the cache, and which a decoder has not
        is_decoder=True,
        is_encoder_decoder=False,
        max_position_embeddings=64,
    ),
    "state-of-another-name": lambda: MambaConfig(**IDS, hidden_size=32, num_hidden_layers=2, state_size=4),
    "no-state": lambda: OpenAIGPTConfig(**IDS, n_embd=32, n_layer=2, n_head=4, n_positions=64),
    "pad-counts-no-position": lambda: RobertaConfig(
        **IDS | {"pad_token_id": 40}, **SIZES, max_position_embeddings=64, is_decoder=True
    ),
    "capped-logits": lambda: Gemma2Config(
        **IDS, **SIZES, num_key_value_heads=2, head_dim=8, sliding_window=6, final_logit_softcapping=2.0
    ),
}
PROMPTS = [
    [5, 6, 7],
    [8, 9, 10, 11, 12, 13, 14, 15, 16],
    [17],
    [18, 19, 20],
    [21, 22, 23, 24, 25, 26, 27, 28, 29],
]


class NoText:
    """A tokenizer for tests that read ids alone."""

    eos_token_id = 2

    def decode(self, ids: Any, **_: Any) -> str:
        return ""

    def batch_decode(self, rows: Any, **_: Any) -> list[str]:
        return ["" for _ in rows]


def made(name: str) -> PreTrainedModel:
    """A model of this kind with weights large enough for tokens to differ."""
    torch.manual_seed(7)
    model = AutoModelForCausalLM.from_config(CONFIGS[name]()).eval()
    with torch.no_grad():
        for key, weights in model.named_parameters():
            if weights.dim() == 2 and "A_log" not in key:
                weights.normal_(0, 0.2 if len(weights) == 64 else 0.6 / weights.shape[-1] ** 0.5)
    return model


def respond(model: PreTrainedModel, prompts: list[list[int]], numbers: Tensor) -> Generation:
    count, n, tokens = numbers.shape
    batch = PromptBatch(list(range(count)), [""] * count, prompts, [{}] * count)
    request = GenerationRequest(batch, n, None, SamplingParams(max_new_tokens=tokens), True)
    policy = policy_of(model, NoText(), end_ids=frozenset(range(2, 64, 5)))  # rows leave at many places
    return TransformersEngine(TransformersOptions()).sample(policy, request, numbers)


@torch.no_grad()
def check(model: PreTrainedModel) -> Generation:
    """Sample, and compare with plain forwards of one text at a time."""
    numbers = torch.rand(len(PROMPTS), 3, 8, generator=torch.Generator().manual_seed(1))
    generation = respond(model, PROMPTS, numbers)
    assert generation.policy_logprobs == generation.sampler_logprobs
    assert len({len(ids) for ids in generation.response_ids}) > 2
    for index, ids in enumerate(generation.response_ids):
        prompt = PROMPTS[index // 3]
        logits = model(torch.tensor([prompt + ids]), use_cache=False).logits[0, len(prompt) - 1 : -1]
        own = logits.log_softmax(-1).gather(-1, torch.tensor(ids)[:, None])[:, 0]
        assert generation.sampler_logprobs[index] == pytest.approx(own.tolist(), abs=1e-5)
        before = logits.softmax(-1).cumsum(-1).gather(-1, torch.tensor(ids)[:, None])[:, 0]
        drawn = numbers[index // 3, index % 3, : len(ids)]
        assert bool(((drawn < before + 1e-5) & (drawn > before - own.exp() - 1e-5)).all())
    return generation


def kind(model: PreTrainedModel) -> tuple[str | None, bool]:
    """State, and whether prompts are padded."""
    reading = reading_of(model)
    return reading.state and reading.state.name, reading.padded


def faulty(*faults: str) -> PreTrainedModel:
    """A GPT-2 that accepts everything and ignores some of it."""
    model = tiny_gpt2()
    plain = model.transformer.forward

    @functools.wraps(plain)
    def forward(input_ids: Tensor, **kwargs: Any) -> Any:
        if "cache" in faults:
            kwargs[CACHE] = None
        if "positions" in faults:
            past = kwargs.get(CACHE)
            start = 0 if past is None else past.get_seq_length()
            kwargs["position_ids"] = torch.arange(start, start + input_ids.shape[1])[None]
        if "mask" in faults:
            kwargs["attention_mask"] = None
        output = plain(input_ids, **kwargs)
        if "cache" in faults:
            output[CACHE] = None
        if "rows" in faults and kwargs.get(CACHE) is not None:
            for layer in kwargs[CACHE].layers:
                layer.reorder_cache = lambda rows, layer=layer: type(layer).reorder_cache(
                    layer, rows.sort()[0]
                )
        return output

    model.transformer.forward = forward
    return model


class TestKinds:
    @pytest.mark.parametrize(
        ("name", "expected"),
        [
            ("hybrid", (CACHE, True)),
            ("positions-by-column", (CACHE, False)),
            ("state-of-another-name", ("cache_params" if CACHE == "past_key_values" else CACHE, False)),
            ("no-state", (None, True)),
            ("pad-counts-no-position", (None, True)),
            ("capped-logits", (CACHE, True)),
        ],
    )
    @pytest.mark.filterwarnings("ignore:model.name. (OpenAIGPT|Roberta)")
    def test_numbers_are_those_of_plain_forwards(self, name: str, expected: tuple[str | None, bool]) -> None:
        model = made(name)
        check(model)
        assert kind(model) == expected

    @pytest.mark.parametrize("name", ["positions-by-column", "state-of-another-name"])
    def test_responses_do_not_depend_on_the_groups(self, name: str) -> None:
        model = made(name)
        whole = check(model)
        numbers = torch.rand(len(PROMPTS), 3, 8, generator=torch.Generator().manual_seed(1))
        alone = [
            respond(model, [prompt], numbers[i : i + 1]).response_ids for i, prompt in enumerate(PROMPTS)
        ]
        assert [ids for own in alone for ids in own] == whole.response_ids


class TestFaults:
    @pytest.mark.parametrize(
        ("faults", "expected"),
        [
            ((), (CACHE, True)),
            (("positions",), (CACHE, False)),
            (("mask",), (CACHE, False)),
            (("cache",), (None, True)),
            (("cache", "positions"), (None, True)),
            (("rows",), (None, True)),
        ],
        ids=lambda value: "+".join(map(str, value)) or "none",
    )
    @pytest.mark.filterwarnings("ignore:model.name. GPT2LMHeadModel keeps no state")
    def test_what_a_model_ignores_is_found_out(
        self, faults: tuple[str, ...], expected: tuple[str | None, bool]
    ) -> None:
        model = faulty(*faults)
        check(model)
        assert kind(model) == expected

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
    def test_rounding_is_no_fault(self, dtype: torch.dtype) -> None:
        assert kind(tiny_llama(dtype=dtype)) == (CACHE, True)

    @pytest.mark.parametrize("faults", [("positions",), ("mask",)])
    def test_faults_show_in_bfloat16(self, faults: tuple[str, ...]) -> None:
        assert kind(faulty(*faults).to(torch.bfloat16)) == (CACHE, False)

    def test_reading_anew_is_warned_of_once(self) -> None:
        model = faulty("cache")
        with pytest.warns(PpokitWarning, match="each text is read anew"):
            reading_of(model)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            reading_of(model)
