"""What a recipe's model, adapters and prompts are refused for without weights, each under its key."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import IA3Config, LoraConfig
from safetensors.torch import save_file
from transformers import BertConfig, Gemma3TextConfig, LlamaConfig, PreTrainedConfig

import fake_plugins
from chat_tokenizer import TEMPLATE, chat_tokenizer
from ppokit.config.recipe import Recipe
from ppokit.config.registry import PluginRegistry
from ppokit.errors import RecipeError
from ppokit.models import gguf
from small_models import SIZES, save_tokenizer

CHAT = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
NO_SYSTEM = "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}" + TEMPLATE


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Configurations, tokenizers and settings of adapters; no weights anywhere."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PPOKIT_CACHE", str(tmp_path / "cache"))
    save_config()
    save_tokenizer(Path("m"), eos_token="</s>", pad_token="[PAD]")
    Path("p.jsonl").write_text('{"prompt": "a b"}\n{"prompt": "c d"}\n')
    Path("held.jsonl").write_text('{"prompt": "a"}\n{"prompt": "b b b"}\n')
    return tmp_path


def save_config(kind: type[PreTrainedConfig] = LlamaConfig, **changes: Any) -> None:
    settings = {"vocab_size": 13, "max_position_embeddings": 16, "architectures": None, **SIZES, **changes}
    Path("m").mkdir(exist_ok=True)
    text = json.dumps({"model_type": kind.model_type, **settings})  # as anybody may have written it
    Path("m/config.json").write_text(text)


def save_chat(template: str | None = TEMPLATE, **changes: Any) -> None:
    tokenizer = chat_tokenizer(template)
    tokenizer.save_pretrained("m")
    save_config(**{"vocab_size": len(tokenizer), "max_position_embeddings": 512, **changes})
    Path("p.jsonl").write_text(json.dumps({"prompt": CHAT}) + "\n")


def save_adapter(config: Any, heads: int | None = None) -> None:
    config.save_pretrained("adapter")
    weights = {"base_model.model.q_proj.lora_A.weight": torch.zeros(1, 4)}
    if heads is not None:
        weights["base_model.model.score.weight"] = torch.zeros(heads, 4)
    save_file(weights, "adapter/adapter_model.safetensors")


def problems(**sections: Any) -> list[str]:
    recipe = {
        "model": {"name": "./m"},
        "lora": {},
        "prompts": {"path": "p.jsonl"},
        "rollout": {"max_new_tokens": 4, "prompts_per_step": 1, "responses_per_prompt": 2},
        "rewards": [{"use": "good"}],
        "losses": [{"use": "clip"}, {"use": "vloss"}],
        "run": {"steps": 2, "out": "run"},
    }
    for key, value in sections.items():
        recipe[key] = {**recipe[key], **value} if key in recipe and value is not None else value
    try:
        Recipe.from_dict(recipe, PluginRegistry(entry_points=fake_plugins.entry_points()))
    except RecipeError as error:
        return [str(problem) for problem in error.problems]
    return []


HELD = {"evaluation": {"every": 1, "prompts": {"path": "held.jsonl"}, "evaluators": [{"use": "measure"}]}}
FITTED = {"lora": {"value_adapter": "adapter"}}
CASES: dict[str, tuple[Callable[[], object], dict[str, Any], str]] = {
    "a classifier": (
        lambda: save_config(BertConfig, architectures=["BertForSequenceClassification"]),
        {},
        "model.name: ./m is BertForSequenceClassification, which is no causal language model",
    ),
    "an encoder": (
        lambda: save_config(BertConfig),
        {},
        "model.name: BertLMHeadModel reads what comes after a token",
    ),
    "causal no more": (
        lambda: save_config(is_causal=False),
        {},
        "model.name: LlamaForCausalLM reads what comes after a token",
    ),
    "both ways": (
        lambda: save_config(Gemma3TextConfig, use_bidirectional_attention=True),
        {},
        "model.name: Gemma3ForCausalLM reads what comes after a token",
    ),
    "quantised": (
        lambda: save_config(quantization_config={"quant_method": "gptq", "bits": 4}),
        {},
        "model.name: ./m is quantised by gptq",
    ),
    "rotary": (
        lambda: save_config(rope_parameters={"rope_type": "linera", "rope_theta": 1e4, "factor": 2.0}),
        {},
        "model.name: the rotary factors of ./m are of the type 'linera' .*; did you mean 'linear'",
    ),
    "half a rotary": (
        lambda: save_config(rope_parameters={"rope_type": "yarn", "rope_theta": 1e4}),
        {},
        "model.name: the configuration of ./m cannot be loaded: .*factor",
    ),
    "no tokenizer": (
        lambda: Path("m/tokenizer.json").unlink(),
        {},
        "model.name: the tokenizer of ./m cannot be loaded",
    ),
    "no end": (
        lambda: save_tokenizer(Path("m"), pad_token="[PAD]"),
        {},
        "model.name: the tokenizer of ./m has no end-of-sequence token",
    ),
    "an end beyond": (
        lambda: save_config(vocab_size=4),
        {"prompts": {"path": "owner/prompts"}},  # those of this file are beyond it too
        "model.name: the tokenizer ends a text with '</s>', id 4, and the model has embeddings for .* 4",
    ),
    "an end of no token": (
        lambda: None,
        {"rollout": {"end_tokens": ["<end>"]}},
        "rollout.end_tokens: '<end>' is no single token",
    ),
    "the recipe's end beyond": (
        lambda: save_config(vocab_size=9),
        {"rollout": {"end_tokens": ["h"]}},
        "rollout.end_tokens: 'h' has the id 12, and the model has embeddings for ids below 9",
    ),
    "a token beyond": (
        lambda: save_config(vocab_size=8),
        {},
        "prompts: row 2 has the token 'd', id 8, and the model has embeddings for ids below 8",
    ),
    "a long prompt": (
        lambda: Path("p.jsonl").write_text('{"prompt": "a a a a a a a a a a a a a"}\n'),
        {},
        "prompts: row 1 has 13 tokens, and rollout.max_new_tokens asks for 4 more, .* context holds 16",
    ),
    "a long held-out prompt": (
        lambda: save_config(max_position_embeddings=6),
        HELD,
        "evaluation.prompts: row 2 has 3 tokens, and rollout.max_new_tokens asks for 4 more",
    ),
    "no system": (
        lambda: save_chat(NO_SYSTEM),
        {"prompts": {"chat": True}},
        "prompts.chat: the tokenizer's chat template refuses a chat: no system",
    ),
    "no template": (
        lambda: save_chat(None),
        {"prompts": {"chat": True}},
        "prompts.chat: true, but the model's tokenizer has no chat template",
    ),
    "another kind of adapter": (
        lambda: save_adapter(IA3Config()),
        {"lora": {"adapter": "adapter"}},
        "lora.adapter: adapter is an adapter of the kind .*IA3",
    ),
    "DoRA": (
        lambda: save_adapter(LoraConfig(use_dora=True)),
        {"lora": {"adapter": "adapter"}},
        r"lora.adapter: adapter is an adapter with use_dora \(True\)",
    ),
    "a reward model of DoRA": (
        lambda: save_adapter(LoraConfig(use_dora=True), heads=1),
        FITTED,
        r"lora.value_adapter: adapter is an adapter with use_dora \(True\)",
    ),
    "a reward model of PiSSA": (
        lambda: save_adapter(LoraConfig(init_lora_weights="pissa"), heads=1),
        FITTED,
        r"lora.value_adapter: adapter is an adapter with init_lora_weights \('pissa'\)",
    ),
    "no head": (
        lambda: save_adapter(LoraConfig(modules_to_save=["score"])),
        FITTED,
        "lora.value_adapter: adapter is no LoRA adapter with one linear head of one output",
    ),
    "two outputs": (
        lambda: save_adapter(LoraConfig(modules_to_save=["score"]), heads=2),
        FITTED,
        "lora.value_adapter: adapter is no LoRA adapter with one linear head of one output",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_refused_under_its_key(case: str) -> None:
    make, sections, expected = CASES[case]
    make()
    found = problems(**sections)
    assert len(found) == 1, found
    assert re.match(expected, found[0]), found[0]


def test_a_good_recipe_is_silent() -> None:
    assert problems(**HELD) == []
    save_adapter(LoraConfig(modules_to_save=["score"]), heads=1)
    assert problems(**FITTED) == []
    save_config(BertConfig, is_decoder=True)
    assert problems() == []
    save_adapter(LoraConfig())
    save_chat()
    assert problems(prompts={"chat": True}, lora={"adapter": "adapter"}) == []


def test_every_problem_at_once() -> None:
    save_config(vocab_size=8)
    save_adapter(IA3Config())
    found = problems(lora={"adapter": "adapter"}, rollout={"end_tokens": ["<end>"]})
    assert [problem.partition(":")[0] for problem in found] == [
        "lora.adapter",
        "rollout.end_tokens",
        "prompts",
    ]


def test_a_converted_file_is_looked_at(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = folder / "weights.gguf"
    for module in ("gguf", "names"):
        monkeypatch.setattr(f"ppokit.models.{module}.packaged_file", lambda name: (weights, "content"))
    name = "package:some/weights.gguf"
    assert problems(model={"name": name}, rollout={"end_tokens": ["<end>"]}) == [], "not converted yet"
    place = gguf._place(name)[1]
    place.parent.mkdir(parents=True)
    Path("m").rename(place)
    (found,) = problems(model={"name": name}, rollout={"end_tokens": ["<end>"]})
    assert found.startswith("rollout.end_tokens:")


def test_a_model_in_the_hubs_cache_is_looked_at(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(folder / "hub"))
    assert problems(model={"name": "some/model"}) == [], "not there"
    repository = folder / "hub" / "models--some--model"
    snapshot = repository / "snapshots" / ("0" * 40)
    snapshot.parent.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0" * 40)
    save_config(vocab_size=8)
    Path("m").rename(snapshot)
    (found,) = problems(model={"name": "some/model"})
    assert found.startswith("prompts: row 2 has the token 'd'")
    (snapshot / "tokenizer.json").unlink()
    (snapshot / "tokenizer_config.json").unlink()
    assert problems(model={"name": "some/model"}) == [], "its tokenizer is fetched with the weights"
