"""What a trainer does without a loop: one PPO update on recorded, rated responses, and answers.

The public functions are methods of `PPOTrainer`.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from ppokit.errors import DataError
from ppokit.plugin.protocols import CheckContext
from ppokit.plugin.reward_output import Outcome
from ppokit.plugin.types import Rewards, Rollout
from ppokit.rewards.scorer import last_tokens
from ppokit.rollout.policy import Prompt, as_texts

if TYPE_CHECKING:
    from ppokit.config.components import SelectedComponent
    from ppokit.rollout.policy import Prediction
    from ppokit.trainer import PPOTrainer


def fit_recorded(
    trainer: PPOTrainer,
    prompts: Sequence[Prompt],
    responses: Sequence[str],
    rewards: Sequence[float],
    epochs: int = 10,
) -> dict[str, float]:
    """One step of PPO on recorded, rated responses, in place of rollouts and rewards.

    The importance ratio is taken against the policy as it is when fit begins, in every epoch, so that
    the loss's clip bounds how far one fit moves it; fit again to go on. Mini-batches are as large as
    the recipe's. The run's folder is written as by any step.

    Args:
        prompts: as the recipe's prompts, chats as lists of messages; equal ones share a group.
        responses: one per prompt. Where prompts are plain text, a response begins with its space.
        rewards: one finite number per response, on any scale; higher is better.
        epochs: passes over all of them.

    Returns: the step's metrics.

    Raises:
        DataError: what was given cannot be trained on.
    """
    settings = trainer.recipe.settings
    texts = as_texts(prompts, settings.prompts)
    check_given(texts, responses, rewards, epochs)
    check_estimator(trainer.recipe.advantages, texts)
    per_step = settings.rollout.prompts_per_step * settings.rollout.responses_per_prompt
    minibatches = math.ceil(len(responses) / (per_step // settings.update.minibatches))
    rollout = recorded_rollout(trainer, texts, responses, minibatches=minibatches)
    given = given_rewards(rollout, rewards)
    advantages = trainer.estimate(rollout, given)
    stats = trainer.update(rollout, advantages, epochs=epochs, minibatches=minibatches)
    metrics = trainer.report(rollout, given, advantages, stats)
    trainer.save()
    return metrics


def recorded_rollout(
    trainer: PPOTrainer, prompts: Sequence[str], responses: Sequence[str], *, minibatches: int | None = None
) -> Rollout:
    """Recorded responses, one per prompt, with what is needed of them; mini-batches as in `update`."""
    return trainer.collector.recorded(prompts, responses, trainer.step + 1, minibatches=minibatches)


def predict_next(trainer: PPOTrainer, prompts: Sequence[Prompt]) -> list[Prediction]:
    """Next-token probabilities and a greedy response of the policy as it is now, per prompt."""
    return trainer.collector.view(trainer.step + 1).predict(prompts)


def answer_greedily(trainer: PPOTrainer, prompts: Sequence[Prompt]) -> list[str]:
    """Greedy responses of the policy as it is now, one per prompt."""
    return trainer.collector.view(trainer.step + 1).generate(prompts).responses


def given_rewards(rollout: Rollout, numbers: Sequence[float]) -> Rewards:
    """One number per response, in the rollout's order, as its reward."""
    scores, scored = torch.tensor(list(map(float, numbers))), torch.ones(len(rollout), dtype=torch.bool)
    token_rewards = torch.zeros(rollout.response_ids.shape)
    token_rewards[last_tokens(rollout.loss_mask)] += scores
    outcome: Outcome = "scored"
    outcomes = {"given": (outcome,) * len(rollout)}
    return Rewards(token_rewards, scores, {"given": scores}, outcomes, scored=scored, trained=scored)


def check_given(
    prompts: Sequence[str], responses: Sequence[str], rewards: Sequence[float], epochs: int
) -> None:
    """What fit is given can be trained on.

    Raises:
        DataError: lengths differ, nothing was given, a text is no text, or a reward no finite number.
    """
    sizes = (len(prompts), len(responses), len(rewards))
    if len(set(sizes)) != 1 or not sizes[0]:
        raise DataError(
            f"fit: got {sizes[0]} prompts, {sizes[1]} responses and {sizes[2]} rewards; expected as many of "
            "each, at least one."
        )
    for name, texts in (("prompts", prompts), ("responses", responses)):
        for index, text in enumerate(texts):
            if not isinstance(text, str):
                raise DataError(f"fit: {name}[{index}] is {text!r}; expected text.")
    for index, number in enumerate(rewards):
        if isinstance(number, bool) or not torch.tensor(float(number)).isfinite():
            raise DataError(f"fit: rewards[{index}] is {number!r}; expected a finite number, in float32 too.")
    if epochs < 1:
        raise DataError(f"fit: got epochs={epochs}; expected 1 or more.")


def check_estimator(estimator: SelectedComponent, prompts: Sequence[str]) -> None:
    """The estimator can do with recorded responses, and with as many to a prompt as there are.

    Raises:
        DataError: it cannot.
    """
    component = estimator.component
    if "greedy" in component.needs:
        raise DataError(
            f"fit: the advantages {component.name!r} compare with a greedy response to each prompt, which "
            "nobody rated. Choose another estimator in the recipe, such as gae or group_relative."
        )
    most = max(Counter(prompts).values())
    faults = () if component.check is None else component.check(estimator.options, CheckContext(None, most))
    for fault in faults:
        raise DataError(
            f"fit: at most {most} of the responses answer the same prompt, which the advantages "
            f"{component.name!r} cannot do with: {fault}"
        )
