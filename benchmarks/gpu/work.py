"""The work of benchmarks/gpu: models of real shapes with random weights, made where they run, and recipes."""

from __future__ import annotations

import json
import random
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch


@dataclass(frozen=True)
class Shape:
    """A model's sizes; `tied` embeddings serve as output layer."""

    hidden: int
    inner: int
    layers: int
    heads: int
    key_heads: int
    tied: bool
    head_size: int | None = None
    kind: str = "qwen2"
    vocabulary: int = 151_936

    @property
    def linear(self) -> int:
        """Weights of the layers' matrices, which a token is multiplied by."""
        size = self.head_size or self.hidden // self.heads
        attention = self.hidden * size * (2 * self.heads + 2 * self.key_heads)
        return self.layers * (attention + 3 * self.hidden * self.inner)


SHAPES = {
    "0.5B": Shape(896, 4864, 24, 14, 2, True),
    "1.5B": Shape(1536, 8960, 28, 12, 2, True),
    "7B": Shape(3584, 18944, 28, 28, 4, False, vocabulary=152_064),
    "Qwen3-0.6B": Shape(1024, 3072, 28, 16, 8, True, head_size=128, kind="qwen3"),
    "Qwen3-4B": Shape(2560, 9728, 36, 32, 8, True, head_size=128, kind="qwen3"),
    "tiny": Shape(32, 64, 3, 4, 2, True, vocabulary=512),
    "tiny qwen3": Shape(32, 64, 3, 4, 2, True, head_size=16, kind="qwen3", vocabulary=512),
}
"""Qwen2.5's (Qwen Team 2024, arXiv:2412.15115) and Qwen3's (2025, arXiv:2505.09388)."""


def config_of(shape: Shape) -> Any:
    from transformers import Qwen2Config, Qwen3Config

    extra: dict[str, Any] = {} if shape.head_size is None else {"head_dim": shape.head_size}
    return {"qwen2": Qwen2Config, "qwen3": Qwen3Config}[shape.kind](
        vocab_size=shape.vocabulary,
        hidden_size=shape.hidden,
        intermediate_size=shape.inner,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.key_heads,
        max_position_embeddings=32_768,
        tie_word_embeddings=shape.tied,
        bos_token_id=None,
        eos_token_id=1,
        pad_token_id=0,
        **extra,
    )


def make_model(shape: Shape, device: torch.device, dtype: torch.dtype) -> Any:
    """Random weights, drawn on the device."""
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    with torch.device(device):
        return AutoModelForCausalLM.from_config(config_of(shape), dtype=dtype).eval()


def save_folder(shape: Shape, folder: Path) -> Path:
    """A configuration and a tokenizer of a word per id: all of a checkpoint but its weights."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    # Named Qwen3 in the file, whatever is made: for Qwen2 transformers takes no tokenizer but Qwen2's own.
    config = config_of(replace(shape, kind="qwen3"))
    config.architectures = ["Qwen3ForCausalLM"]
    config.save_pretrained(folder)
    words = {"[PAD]": 0, "</s>": 1, "[UNK]": 2} | {f"w{i}": i for i in range(3, shape.vocabulary)}
    backend = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="[PAD]", eos_token="</s>", unk_token="[UNK]"
    ).save_pretrained(folder)
    return folder


def save_reward(shape: Shape, base: Path, folder: Path, longest: int) -> Path:
    """A fitted reward model with random weights: adapter and head on the base, as `reward fit` writes it."""
    from peft import LoraConfig, get_peft_model, get_peft_model_state_dict
    from safetensors.torch import save_file
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from ppokit.reward_models.artifact import VERSION, FittedSettings

    with torch.device("meta"):  # for the names and shapes of its matrices
        model = AutoModelForCausalLM.from_config(config_of(shape))
        config = LoraConfig(**LORA, task_type="CAUSAL_LM")
        matrices = get_peft_model_state_dict(get_peft_model(model, config))
    draw = torch.Generator().manual_seed(0)
    state = {n: 0.01 * torch.randn(m.shape, generator=draw) for n, m in matrices.items()}
    state["base_model.model.score.weight"] = torch.randn(1, shape.hidden, generator=draw)
    config.save_pretrained(str(folder))
    save_file(state, str(folder / "adapter_model.safetensors"))
    AutoTokenizer.from_pretrained(base).save_pretrained(folder)
    text = ["{prompt} {response}"]
    FittedSettings(VERSION, str(base), "causal", text, longest, "random", []).write(folder)
    return folder


@contextmanager
def made_on_the_card(shape: Shape) -> Iterator[None]:
    """Let ppokit make the model in the place of reading 15 GB from a disk; all else is its own way."""
    import ppokit.build

    def make(source: Any, dtype: torch.dtype, device: torch.device, *, load_in_4bit: bool = False) -> Any:
        if load_in_4bit:
            raise ValueError("a model in 4 bits is read from a file")
        return make_model(shape, device, dtype)

    own = ppokit.build.load_model
    ppokit.build.load_model = make  # type: ignore[assignment]
    try:
        yield
    finally:
        ppokit.build.load_model = own


@dataclass(frozen=True)
class Work:
    """Sizes of a step."""

    prompts: int = 64
    prompt_tokens: int = 256
    new_tokens: int = 256
    steps: int = 2
    tokens_per_microbatch: int = 8192

    @property
    def text(self) -> int:
        return self.prompt_tokens + self.new_tokens


WORK = {"0.5B": Work(), "1.5B": Work(), "7B": Work(tokens_per_microbatch=1024)}
"""A layer of 7B keeps 210 KB per token for its gradient: 6 GB of 1,024 tokens in all."""
TINY = Work(prompts=4, prompt_tokens=8, new_tokens=6, steps=2, tokens_per_microbatch=64)
LORA = {"r": 16, "lora_alpha": 32, "target_modules": "all-linear"}


def texts(count: int, tokens: int, shape: Shape, seed: int = 0) -> list[str]:
    """Random words, one token each."""
    draw = random.Random(seed)
    return [" ".join(f"w{draw.randrange(3, shape.vocabulary)}" for _ in range(tokens)) for _ in range(count)]


def recipe_of(shape: Shape, work: Work, folder: Path, **sections: Any) -> dict[str, Any]:
    """A PPO step with LoRA of rank 16, two epochs: policy, reference, value and reward on one base."""
    base = save_folder(shape, folder / "model")
    lines = (json.dumps({"prompt": text}) + "\n" for text in texts(work.prompts, work.prompt_tokens, shape))
    (folder / "prompts.jsonl").write_text("".join(lines))
    recipe: dict[str, Any] = {
        "model": {"name": str(base), "dtype": "auto"},
        "lora": {"r": LORA["r"], "alpha": LORA["lora_alpha"], "target_modules": LORA["target_modules"]},
        "value": "own_adapter",
        "prompts": {"path": str(folder / "prompts.jsonl")},
        "advantages": {"use": "gae", "gamma": 1.0, "lam": 0.95, "whiten": "batch"},
        "losses": [{"use": "ppo_clip"}, {"use": "value_clip", "weight": 0.1}],
        **sections,
    }
    if "rewards" not in recipe:
        reward = save_reward(shape, base, folder / "reward", work.text)
        recipe["rewards"] = [
            {"use": "reward_model", "model": str(reward), "shared_base": True},
            {"use": "kl_penalty", "weight": 0.05},
        ]
    recipe["rollout"] = {
        "max_new_tokens": work.new_tokens,
        "prompts_per_step": work.prompts,
        "responses_per_prompt": 1,
        **sections.get("rollout", {}),
    }
    recipe["update"] = {
        "epochs": 2,
        "minibatches": 1,
        "learning_rate": 1e-5,
        "tokens_per_microbatch": work.tokens_per_microbatch,
        "old_logprobs": "sampler",
        **sections.get("update", {}),
    }
    out = tempfile.mkdtemp(dir=folder)
    recipe["run"] = {"steps": work.steps, "out": f"{out}/run", "sample_every": 0, "checkpoint_every": 10_000}
    return {key: value for key, value in recipe.items() if value is not None}
