"""A run on a base in 4 bits, and what is left of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import AutoPeftModelForCausalLM
from safetensors.torch import load_file

from ppokit import PPOTrainer, Recipe
from ppokit.inference import load_policy
from runs import OPENERS, metrics_of


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")
def test_a_run_and_its_policy(
    recipe_dict: Callable[..., dict[str, Any]], stories260k: Path, tmp_path: Path
) -> None:
    model = {"name": str(stories260k), "dtype": "float32", "load_in_4bit": True}
    run = tmp_path / "run"
    trainer = PPOTrainer(Recipe.from_dict(recipe_dict(model=model)))
    before = trainer.answer(OPENERS)
    trainer.train()
    after = trainer.answer(OPENERS)
    first, *_, last = metrics_of(run)
    assert first["kl/k3"] == pytest.approx(0, abs=1e-6)
    assert last["kl/k3"] > 1e-3
    assert trainer.parts.audit["merged sampler"] == 0

    recipe = Recipe.load(run / "recipe.yaml")
    assert load_policy(recipe, None).answer(OPENERS) == before
    assert load_policy(recipe, run / "policy").answer(OPENERS) == after != before

    # Any program that knows peft loads it, on the base as it came.
    plain = AutoPeftModelForCausalLM.from_pretrained(str(run / "policy"))
    saved = load_file(run / "policy" / "adapter_model.safetensors")
    found = {n: p for n, p in plain.named_parameters() if "lora_" in n}
    assert len(found) == len(saved) > 0
    for name, param in found.items():
        assert torch.equal(param, saved[name.replace(".default", "")]), name
