"""It learns: reward rises on a real, if small, language model. Where nothing can be learned, it says so."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import pytest

from ppokit import PPOTrainer, Recipe
from ppokit.errors import TrainingError
from runs import metrics_of

CHEERFUL = {
    "use": "pattern",
    "pattern": "happy|smile|love|fun|play|good",
    "mode": "count",
    "clip": [0, 3],
}
PENALTY = {"use": "kl_penalty", "weight": 0.02}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("lora", "learning_rate"), [({"r": 8}, 3e-3), (None, 5e-4)], ids=["lora", "all weights"]
)
def test_reward_rises(
    recipe_dict: Callable[..., dict[str, Any]],
    tmp_path: Path,
    lora: Mapping[str, Any] | None,
    learning_rate: float,
) -> None:
    gains = []
    for seed in range(3):
        out = tmp_path / f"run{seed}"
        recipe = recipe_dict(
            lora=lora,
            rollout={"max_new_tokens": 24, "prompts_per_step": 8, "responses_per_prompt": 4},
            rewards=[CHEERFUL, PENALTY],
            update={"learning_rate": learning_rate},
            run={"steps": 14, "seed": seed, "out": str(out)},
        )
        PPOTrainer(Recipe.from_dict(recipe)).train()
        rewards = [line["reward/mean"] for line in metrics_of(out)]
        gains.append(mean(rewards[-3:]) - mean(rewards[:2]))
    assert mean(gains) > 3 * stdev(gains) / math.sqrt(len(gains)), gains
    assert min(gains) > 0.5, gains


def test_losses_that_reach_no_policy_stop_the_run(
    recipe_dict: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    losses = [{"use": "ppo_clip", "weight": 0.0}, {"use": "value_clip", "weight": 0.1}]
    trainer = PPOTrainer(Recipe.from_dict(recipe_dict(losses=losses)))
    with pytest.raises(TrainingError, match="did not change in its first update"):
        trainer.train()
    assert trainer.step == 0
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("whiten", ["batch", "off"])
def test_a_reward_that_is_always_0_teaches_nothing(
    recipe_dict: Callable[..., dict[str, Any]], tmp_path: Path, whiten: str
) -> None:
    """And divides nothing by its deviation of 0; the values begin at 0, so that no advantage is left."""
    recipe = recipe_dict(
        rewards=[{"use": "pattern", "pattern": "(?!)"}],
        advantages={"whiten": whiten},
        run={"steps": 2, "out": str(tmp_path / "run")},
    )
    trainer = PPOTrainer(Recipe.from_dict(recipe))
    before = trainer.components.backend.hash(trainer.roles.is_policy)
    trainer.train()
    assert trainer.components.backend.hash(trainer.roles.is_policy) == before
    for line in metrics_of(tmp_path / "run"):
        assert line["reward/mean"] == 0
        assert all(value is not None for value in line.values()), line
