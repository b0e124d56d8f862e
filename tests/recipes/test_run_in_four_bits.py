"""A run on a base in 4 bits, and what is left of it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import AutoPeftModelForCausalLM
from safetensors.torch import load_file

from ppokit import PPOTrainer, Recipe, build
from ppokit.errors import RecipeError
from ppokit.models.loading import find_model, load_model
from ppokit.rollout.load_policy import load_policy
from runs import OPENERS, metrics_of

pytest.importorskip("bitsandbytes")

RecipeDict = Callable[..., dict[str, Any]]


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_run_and_its_policy(recipe_dict: RecipeDict, tiny_model: Path, tmp_path: Path, dtype: str) -> None:
    model = {"name": str(tiny_model), "dtype": dtype, "load_in_4bit": True}
    run = tmp_path / "run"
    trainer = PPOTrainer(Recipe.from_dict(recipe_dict(model=model)))
    before = trainer.answer(OPENERS)
    trainer.train()
    after = trainer.answer(OPENERS)
    first, *_, last = metrics_of(run)
    assert first["kl/k3"] == pytest.approx(0, abs=1e-6)
    assert last["kl/k3"] > 1e-3
    assert trainer.components.audit["merged sampler"] == 0

    recipe = Recipe.load(run / "recipe.yaml")
    assert load_policy(recipe, None).generate(OPENERS).responses == before
    assert load_policy(recipe, run / "policy").generate(OPENERS).responses == after != before

    # Any program that knows peft loads it, on the base as it came.
    plain = AutoPeftModelForCausalLM.from_pretrained(str(run / "policy"))
    saved = load_file(run / "policy" / "adapter_model.safetensors")
    lora_params = {n: p for n, p in plain.named_parameters() if "lora_" in n}
    assert len(lora_params) == len(saved) > 0
    for name, param in lora_params.items():
        assert torch.equal(param, saved[name.replace(".default", "")].float()), name


def test_a_checkpoint_in_four_bits_needs_lora_before_it_is_loaded(
    recipe_dict: RecipeDict, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    four = tmp_path / "four"
    shutil.copytree(tiny_model, four)
    source = find_model(str(tiny_model))
    load_model(source, torch.float32, torch.device("cpu"), load_in_4bit=True).save_pretrained(four)
    monkeypatch.setattr(build, "load_model", lambda *_, **__: pytest.fail("it was loaded"))
    with pytest.raises(RecipeError, match="lora: got none, and a base in 4 bits does not train"):
        PPOTrainer(Recipe.from_dict(recipe_dict(model={"name": str(four)}, lora=None)))
