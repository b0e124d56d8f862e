"""One step of every preset; writes loss and gradient. Started by test_invariance.py in two processes."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from ppokit import PPOTrainer, Recipe
from ppokit.plugin.types import Rewards, Rollout

Change = Callable[[Rollout, Rewards], tuple[Rollout, Rewards]]


def one_step(recipe: Recipe, change: Change | None = None) -> dict[str, Tensor]:
    """Gradient by parameter, and each loss, of a step on what `change` makes of its batch."""
    torch.set_num_threads(1)
    trainer = PPOTrainer(recipe)
    master_weights = trainer.components.backend
    recorded: dict[str, Tensor] = {}
    step = master_weights.step

    def watched(learning_rate: float) -> None:
        if not recorded:
            gradients = master_weights.gradients()
            recorded.update({n: g.clone() for n, g in zip(master_weights.weights, gradients, strict=True)})
        step(learning_rate)

    master_weights.step = watched  # type: ignore[method-assign]
    rollout = trainer.collect(next(trainer.prompts))
    rollout, rewards = trainer.resample(rollout, trainer.score(rollout))
    if change is not None:
        rollout, rewards = change(rollout, rewards)
    stats = trainer.update(rollout, trainer.estimate(rollout, rewards))
    losses = {name: torch.tensor(number) for name, number in stats.items() if name.startswith("loss/")}
    return {**recorded, **losses}


if __name__ == "__main__":
    for path in sys.argv[2:]:
        result = one_step(Recipe.load(path))
        if torch.distributed.get_rank() == 0:
            assert torch.distributed.get_world_size() == 2
            save_file(result, Path(sys.argv[1]) / f"{Path(path).stem}.safetensors")
