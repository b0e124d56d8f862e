"""No padding, order, division into micro-batches or number of processes changes a loss or gradient."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file
from torch import Tensor, nn

from invariance_worker import one_step
from ppokit import Recipe
from ppokit.config.presets import names
from ppokit.plugin.types import Rewards, Rollout
from runs import run_worker

RecipeDict = Callable[..., dict[str, Any]]
TOLERANCE = 1e-5


def recipe_of(recipe_dict: RecipeDict, preset: str, **update: Any) -> dict[str, Any]:
    """Responses of many lengths, some of them truncated; a KL penalty, so that token rewards count."""
    recipe = recipe_dict(
        preset=preset,
        rollout={"max_new_tokens": 14, "stop": [".", ","], "prompts_per_step": 5},
        rewards=[
            {"use": "pattern", "pattern": "[aeiou]", "mode": "count"},
            {"use": "kl_penalty", "weight": 0.05},
        ],
        update={"learning_rate": 1e-3, "epochs": 1, "minibatches": 1, **update},
    )
    del recipe["losses"]
    return recipe


def assert_same(result: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    """To 1e-5 of the whole gradient's norm, and of each loss."""
    assert result.keys() == expected.keys()
    losses = [name for name in expected if name.startswith("loss/")]
    assert losses
    for name in losses:
        assert float(result[name]) == pytest.approx(float(expected[name]), rel=TOLERANCE, abs=1e-6), name

    def flat(numbers: dict[str, Tensor]) -> Tensor:
        return torch.cat([numbers[name].flatten() for name in sorted(expected) if name not in losses])

    assert float(flat(expected).norm()) > 1e-4, "else this shows nothing"
    assert float((flat(result) - flat(expected)).norm() / flat(expected).norm()) < TOLERANCE


def padded(rollout: Rollout, rewards: Rewards) -> tuple[Rollout, Rewards]:
    """Three more columns, which hold anything."""

    def widen(value: Any) -> Any:
        if not isinstance(value, Tensor) or value.dim() != 2:
            return value
        filler = {torch.bool: False, torch.int64: 7}.get(value.dtype, 1e6)
        return nn.functional.pad(value, (0, 3), value=filler)

    padded_rollout = replace(rollout, **{f.name: widen(getattr(rollout, f.name)) for f in fields(Rollout)})
    return padded_rollout, replace(rewards, token_rewards=widen(rewards.token_rewards))


def turned(rollout: Rollout, rewards: Rewards) -> tuple[Rollout, Rewards]:
    """In another order, which mixes the groups."""
    order = torch.randperm(len(rollout), generator=torch.Generator().manual_seed(1)).tolist()
    return rollout.select(order), rewards.select(order)


@pytest.mark.slow
@pytest.mark.parametrize("preset", names())
def test_in_one_process(recipe_dict: RecipeDict, preset: str) -> None:
    recipe = Recipe.from_dict(recipe_of(recipe_dict, preset))
    expected = one_step(recipe)
    assert_same(one_step(recipe, padded), expected)
    assert_same(one_step(recipe, turned), expected)
    cut = Recipe.from_dict(recipe_of(recipe_dict, preset, tokens_per_microbatch=50))
    assert_same(one_step(cut), expected)
    if preset == "ppo":
        other = {"tokens_per_microbatch": 90, "layout": "packed", "activation_checkpointing": True}
        assert_same(one_step(Recipe.from_dict(recipe_of(recipe_dict, preset, **other))), expected)


@pytest.mark.slow
def test_in_two_processes(recipe_dict: RecipeDict, tmp_path: Path) -> None:
    paths = []
    for preset in names():
        path = tmp_path / f"{preset}.yaml"
        path.write_text(yaml.safe_dump(recipe_of(recipe_dict, preset)))
        paths.append(path)
    run_worker("invariance_worker.py", tmp_path, *paths, cwd=tmp_path, timeout=300)
    for path in paths:
        both = load_file(path.with_suffix(".safetensors"))
        assert_same(both, one_step(Recipe.load(path)))
