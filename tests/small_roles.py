"""The four roles of a small model, and a batch to ask them about, for tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor
from transformers import PreTrainedModel

from ppokit.config.settings import LoraSettings
from ppokit.data.batches import TokenBatch
from ppokit.models.roles import ModelRoles
from small_models import tiny_llama

CPU = torch.device("cpu")
LORA = LoraSettings(r=4, alpha=8, target_modules="all-linear")


def token_batch(width: int = 5) -> TokenBatch:
    """Three prompts and answers of different lengths."""
    prompts = [[1, 7, 8, 9], [5], [1, 33]]
    responses = torch.zeros(3, width, dtype=torch.long)
    mask = torch.zeros(3, width, dtype=torch.bool)
    for row, answer in enumerate([[10, 11, 12], [20, 21, 22, 23, 2], [40]]):
        responses[row, : len(answer)] = torch.tensor(answer)
        mask[row, : len(answer)] = True
    return TokenBatch.build(prompts, responses, mask, CPU)


def randomize(params: Any, seed: int = 1) -> None:
    """Random numbers in the place of LoRA's zeros."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for param in params:
            param.copy_(torch.randn(param.shape, generator=generator) * 0.2)


def roles_of(model: PreTrainedModel | None = None, **changes: Any) -> ModelRoles:
    settings: dict[str, Any] = {"lora": LORA, "value": "own_adapter", "reference": True, **changes}
    return ModelRoles(model if model is not None else tiny_llama(), **settings)


def logprobs(roles: ModelRoles, role: Any = "policy", batch: TokenBatch | None = None) -> Tensor:
    return roles.logprobs(batch or token_batch(), role, temperature=1.0)[0]


def policy_params(roles: ModelRoles) -> list[Tensor]:
    return [param for name, param in roles.trainable.items() if roles.is_policy(name)]


def value_params(roles: ModelRoles) -> list[Tensor]:
    return [param for name, param in roles.trainable.items() if not roles.is_policy(name)]


def save_adapter(folder: Path, targets: Any) -> PeftModel:
    """A trained adapter of the tiny model, written by peft."""
    config = LoraConfig(r=4, lora_alpha=8, target_modules=targets, task_type="CAUSAL_LM")
    model = get_peft_model(tiny_llama(), config)
    randomize([p for n, p in model.named_parameters() if "lora_" in n])
    model.save_pretrained(str(folder))
    return model.eval()
