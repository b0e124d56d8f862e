"""Every preset is a recipe, refuses what it cannot do, and teaches a small model."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from ppokit import PPOTrainer, Recipe
from ppokit.config.presets import names
from ppokit.errors import RecipeError
from runs import OPENERS

RecipeDict = Callable[..., dict[str, Any]]
Ppokit = Callable[..., Any]
SEEDS = range(5)
STEPS = 10

every_preset = pytest.mark.parametrize("preset", names())


def recipe_of(recipe_dict: RecipeDict, preset: str, **sections: Any) -> dict[str, Any]:
    """The preset's keys, with a task that a tiny model learns in seconds: say `a` three times.

    Clauses end at a comma or a full stop, so that there are responses that are not truncated.
    """
    recipe = recipe_dict(
        preset=preset,
        rollout={"max_new_tokens": 12, "stop": [".", ","], "prompts_per_step": len(OPENERS)},
        rewards=[{"use": "pattern", "pattern": "a", "mode": "count", "clip": [0, 3]}],
        update={"learning_rate": 5e-3},
    )
    del recipe["losses"]
    return {**recipe, **sections}


@every_preset
def test_it_is_a_recipe_of_ordinary_keys(
    recipe_dict: RecipeDict, ppokit: Ppokit, tmp_path: Path, preset: str
) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe_of(recipe_dict, preset)))
    completed = ppokit("validate", path, "--resolved")
    assert completed.returncode == 0, completed.stderr
    resolved = yaml.safe_load(completed.stdout)
    assert "preset" not in resolved
    again = tmp_path / "resolved.yaml"
    again.write_text(completed.stdout)
    assert Recipe.load(again) == Recipe.load(path)
    changed = Recipe.load(
        path, ["losses.0.weight=0.25", "rollout.responses_per_prompt=6", "update.minibatches=1"]
    )
    assert changed.resolved()["losses"][0]["weight"] == 0.25
    assert changed.settings.rollout.responses_per_prompt == 6


@pytest.mark.parametrize(
    ("preset", "sections", "key", "message"),
    [
        (
            "grpo",
            {"rollout": {"responses_per_prompt": 1}},
            "preset",
            "got rollout.responses_per_prompt 1",
        ),
        (
            "rloo",
            {"rollout": {"responses_per_prompt": 1}},
            "preset",
            "got rollout.responses_per_prompt 1",
        ),
        (
            "reinforce_plus_plus",
            {"rollout": {"responses_per_prompt": 1}, "advantages": {"baseline": "group_mean"}},
            "advantages",
            "got rollout.responses_per_prompt 1",
        ),
        (
            "grpo",
            {"losses": [{"use": "ppo_clip"}, {"use": "value_mse"}]},
            "losses",
            "the loss 'value_mse' trains a value function, but the advantages 'group_relative' have",
        ),
        (
            "gspo",
            {"update": {"minibatches": 7}},
            "update",
            "expected a divisor of the 128 responses of a step",
        ),
        (
            "reinforce_plus_plus",
            {"rollout": {"responses_per_prompt": 1, "dynamic_sampling": 2}},
            "rollout",
            "rollout.dynamic_sampling: got 2 with responses_per_prompt 1",
        ),
        ("grpo", {"advantages": {"lam": 0.9}}, "advantages", "unknown key 'lam'"),
        ("grop", {}, "preset", "did you mean 'grpo'?"),
    ],
)
def test_what_it_cannot_do_is_refused_with_its_line(
    recipe_dict: RecipeDict,
    ppokit: Ppokit,
    tmp_path: Path,
    preset: str,
    sections: Any,
    key: str,
    message: str,
) -> None:
    """Before anything loads: there is no such model."""
    recipe = recipe_of(recipe_dict, preset, model={"name": "nobody/nothing"}, rollout={}, **{})
    recipe.update(sections)
    if not recipe["rollout"]:
        del recipe["rollout"]
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe))
    lines = [line.split(":")[0] for line in path.read_text().splitlines()]
    completed = ppokit("validate", path)
    assert completed.returncode == 2, completed.stdout
    (problem,) = [line for line in completed.stderr.splitlines() if message in line]
    number = int(problem.split("line ")[1].split(",")[0])
    while not lines[number - 1] or lines[number - 1][0] in " -":
        number -= 1
    assert lines[number - 1] == key


@pytest.mark.parametrize("lora", [None, {"r": 4}])
@pytest.mark.parametrize("value", [None, "policy_trunk"])
def test_a_reference_can_always_be_had(recipe_dict: RecipeDict, lora: Any, value: Any) -> None:
    """The base without adapters, or a frozen copy of a model that is trained whole."""
    trainer = PPOTrainer(Recipe.from_dict(recipe_of(recipe_dict, "grpo", lora=lora, value=value)))
    for prompts in trainer.prompts:
        rollout = trainer.collect(prompts)
        assert rollout.ref_logprobs is not None
        stats = trainer.update(rollout, trainer.estimate(rollout, trainer.score(rollout)))
        first = trainer.step == 1
        assert (abs(stats["kl/k3"]) < 1e-6) == first


def rise(recipe: dict[str, Any], seed: int, out: Path, learning_rate: float | None = None) -> float:
    """Mean reward of the last two steps less that of the first, which no training came before."""
    update = dict(recipe["update"])
    if learning_rate is not None:
        update["learning_rate"] = learning_rate
    run = {"steps": STEPS, "seed": seed, "out": str(out), "sample_every": 0}
    trainer = PPOTrainer(Recipe.from_dict({**recipe, "update": update, "run": run}))
    means = []
    for prompts in trainer.prompts:
        rollout = trainer.collect(prompts)
        rollout, rewards = trainer.resample(rollout, trainer.score(rollout))
        means.append(float(rewards.scores[rewards.scored].mean()))
        trainer.update(rollout, trainer.estimate(rollout, rewards))
    return sum(means[-2:]) / 2 - means[0]


def standard_errors(rises: list[float]) -> float:
    """How many standard errors the mean lies above 0."""
    numbers = torch.tensor(rises, dtype=torch.float64)
    return float(numbers.mean() / (numbers.std() / math.sqrt(len(numbers))))


@pytest.mark.slow
@pytest.mark.parametrize(
    "preset",
    # With a value function and with groups; the others take as long and share their parts.
    [name if name in ("ppo", "dapo") else pytest.param(name, marks=pytest.mark.thorough) for name in names()],
)
def test_it_learns(recipe_dict: RecipeDict, tmp_path: Path, preset: str) -> None:
    recipe = recipe_of(recipe_dict, preset)
    rises = [rise(recipe, seed, tmp_path / f"run{seed}") for seed in SEEDS]
    assert standard_errors(rises) > 3, rises


@pytest.mark.slow
def test_without_learning_nothing_rises(recipe_dict: RecipeDict, tmp_path: Path) -> None:
    """The measure itself: with a learning rate of next to nothing it finds nothing."""
    recipe = recipe_of(recipe_dict, "grpo")
    rises = [rise(recipe, seed, tmp_path / f"run{seed}", learning_rate=1e-9) for seed in SEEDS]
    assert standard_errors(rises) < 3, rises


def test_presets_are_no_recipes_of_their_own() -> None:
    with pytest.raises(RecipeError, match="model: this section is missing"):
        Recipe.from_dict({"preset": "grpo"})
