"""A reward model that is fitted on an architecture, and scores on the policy's own base."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import AutoModelForSequenceClassification

from architectures import Architecture
from matrix_run import PROMPTS, config_of, recipe_of
from ppokit import PPOTrainer, Recipe
from ppokit.models.pretrained import peft_warnings
from ppokit.ratings.records import Pair, RatingTable
from ppokit.reward_models.fit import reward_fit
from ppokit.reward_models.methods import FitOptions


class Silent:
    """Nobody is told how the fit goes on."""

    def on_start(self, tokens: int) -> None: ...

    def on_advance(self, tokens: int) -> None: ...

    def on_fit(self, number: int, count: int, samples: int) -> None: ...

    def on_fitted(self, history: Any, seconds: float) -> None: ...


def choices() -> RatingTable:
    """Sixteen of them, of eight prompts."""
    rows = []
    for number in range(16):
        prompt = f"{PROMPTS[number % 8 % 3]} {number % 8}"
        rows.append(
            Pair(number, prompt, f"and the cat sat {number}.", "and it was sad.", "", str(number), None)
        )
    return RatingTable("choices.csv", [], rows, [])


def fitted_reward(architecture: Architecture, base: Path, folder: Path) -> None:
    """Scores on the shared base are those of plain transformers and peft with what was fitted.

    Raises:
        PpokitError: this architecture takes no reward model.
        AssertionError: they are not.
    """
    out = folder / "reward"
    options = FitOptions(held_out=0.25, heads=1, max_length=64, curve=False, epochs=1, batch_size=4, lora_r=4)
    reward_fit(choices(), str(base), out, options, Silent())
    rewards = [{"use": "reward_model", "model": str(out), "shared_base": True}]
    recipe = recipe_of(architecture, "LoRA", base, folder)
    recipe = {
        **recipe,
        "rewards": rewards,
        "advantages": {"use": "monte_carlo"},
        "losses": [{"use": "ppo_clip"}],
    }
    trainer = PPOTrainer(Recipe.from_dict({**recipe, "value": None}))
    rollout = trainer.collect(next(iter(trainer.prompts)))
    scores = trainer.score(rollout).scores
    trainer.end()
    config = config_of(base)
    config.num_labels = 1
    model = AutoModelForSequenceClassification.from_pretrained(base, config=config, dtype=torch.float32)
    tokenizer = trainer.components.tokenizer
    model.config.pad_token_id = tokenizer.pad_token_id
    with peft_warnings():
        plain = PeftModel.from_pretrained(model, out).eval()
    expected = []
    for prompt, response in zip(rollout.prompts, rollout.responses, strict=True):
        ids = tokenizer(f"{prompt} {response.removeprefix(' ')}")["input_ids"]
        with torch.no_grad():
            expected.append(float(plain(torch.tensor([ids]), use_cache=False).logits))
    torch.testing.assert_close(scores, torch.tensor(expected), atol=2e-5, rtol=2e-5)
    assert len(set(expected)) > 3
