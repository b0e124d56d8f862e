"""What a trainer does without a loop: fit to recorded, rated responses, and answer.

The functions are methods of `PPOTrainer`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

from ppokit.config.recipe import Recipe
from ppokit.distributed import Processes
from ppokit.plugin.types import Advantages, RewardOutput, Rewards, Rollout
from ppokit.rewards.outcomes import Provider
from ppokit.rewards.scorer import Scorer
from ppokit.rollout.collect import Collector
from ppokit.rollout.policy import Prediction
from ppokit.rollout.recorded import check_estimator, check_given


class Verbs(Protocol):
    """What is used of a trainer.

    Attributes:
        step: the step that was done last.
        current: the step that is being done.
    """

    recipe: Recipe
    processes: Processes
    collector: Collector
    step: int
    current: int

    def estimate(self, rollout: Rollout, rewards: Rewards) -> Advantages: ...

    def update(
        self, rollout: Rollout, advantages: Advantages, *, epochs: int | None, minibatches: int | None
    ) -> dict[str, float]: ...

    def report(
        self, rollout: Rollout, rewards: Rewards, advantages: Advantages, stats: dict[str, float]
    ) -> dict[str, float]: ...

    def save(self) -> None: ...


def fit_recorded(
    trainer: Verbs,
    prompts: Sequence[str],
    responses: Sequence[str],
    rewards: Sequence[float],
    epochs: int = 10,
) -> dict[str, float]:
    """One step of PPO on recorded, rated responses, in place of rollouts and rewards.

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
    rollout = recorded_rollout(trainer, prompts, responses, minibatches=minibatches)
    given = given_rewards(rollout, rewards, trainer.processes)
    advantages = trainer.estimate(rollout, given)
    stats = trainer.update(rollout, advantages, epochs=epochs, minibatches=minibatches)
    metrics = trainer.report(rollout, given, advantages, stats)
    trainer.save()
    return metrics


def recorded_rollout(
    trainer: Verbs, prompts: Sequence[str], responses: Sequence[str], *, minibatches: int | None = None
) -> Rollout:
    """Recorded responses, one per prompt, with what is needed of them; mini-batches as in `update`."""
    trainer.current = trainer.step + 1
    return trainer.collector.recorded(prompts, responses, trainer.current, minibatches=minibatches)


def predict_next(trainer: Verbs, prompts: Sequence[str]) -> list[Prediction]:
    """Next-token probabilities and a greedy response of the policy as it is now, per prompt."""
    return trainer.collector.view(trainer.current).predict(prompts)


def answer_greedily(trainer: Verbs, prompts: Sequence[str]) -> list[str]:
    """Greedy responses of the policy as it is now, one per prompt."""
    return trainer.collector.view(trainer.current).generate(prompts).responses


def given_rewards(rollout: Rollout, numbers: Sequence[float], processes: Processes) -> Rewards:
    """One number per response, in the rollout's order, as its reward."""
    by_id = dict(zip(rollout.ids, map(float, numbers), strict=True))

    class Given:
        def score(self, share: Rollout) -> RewardOutput:
            return RewardOutput.from_values([by_id[name] for name in share.ids])

    return Scorer([Provider("given", "fit", Given())], processes, 0.0).score(rollout)
