"""Fit: one step of PPO on recorded, rated responses, in place of rollouts and rewards."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

from ppokit.config.recipe import Recipe
from ppokit.distributed import Processes
from ppokit.plugin.types import Advantages, Rewards, Rollout
from ppokit.rewards.given import given_rewards
from ppokit.rollout.recorded import check_estimator, check_given


class Verbs(Protocol):
    """What a trainer does."""

    recipe: Recipe
    processes: Processes

    def recorded(
        self, prompts: Sequence[str], responses: Sequence[str], *, minibatches: int | None
    ) -> Rollout: ...

    def estimate(self, rollout: Rollout, rewards: Rewards) -> Advantages: ...

    def update(
        self, rollout: Rollout, advantages: Advantages, *, epochs: int | None, minibatches: int | None
    ) -> dict[str, float]: ...

    def report(
        self, rollout: Rollout, rewards: Rewards, advantages: Advantages, stats: dict[str, float]
    ) -> dict[str, float]: ...

    def save(self) -> None: ...


def fit(
    trainer: Verbs, prompts: Sequence[str], responses: Sequence[str], rewards: Sequence[float], epochs: int
) -> dict[str, float]:
    """One step on recorded, rated responses.

    The importance ratio is taken against the policy as it is when fit begins, in every epoch, so that
    the loss's clip bounds how far one fit moves it; fit again to go on. Mini-batches are as large as
    the recipe's. The run's folder is written as by any step.

    Args:
        prompts: as the recipe's prompts; equal ones share a group.
        responses: one per prompt. Where prompts are plain text, a response begins with its space.
        rewards: one finite number per response, on any scale; higher is better.
        epochs: passes over all of them.

    Returns: the step's metrics.

    Raises:
        DataError: what was given cannot be trained on.
    """
    check_given(prompts, responses, rewards, epochs)
    check_estimator(trainer.recipe.advantages, prompts)
    settings = trainer.recipe.settings
    per_step = settings.rollout.prompts_per_step * settings.rollout.responses_per_prompt
    minibatches = max(1, math.ceil(len(responses) / max(1, per_step // settings.update.minibatches)))
    rollout = trainer.recorded(prompts, responses, minibatches=minibatches)
    given = given_rewards(rollout, rewards, trainer.processes)
    advantages = trainer.estimate(rollout, given)
    stats = trainer.update(rollout, advantages, epochs=epochs, minibatches=minibatches)
    metrics = trainer.report(rollout, given, advantages, stats)
    trainer.save()
    return metrics
