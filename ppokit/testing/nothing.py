"""Whether an answer of nothing scores best by a recipe's rewards, in the examples their authors named."""

from __future__ import annotations

from collections.abc import Iterator

from ppokit.config.components import SelectedComponent
from ppokit.config.recipe import Recipe
from ppokit.errors import PpokitError
from ppokit.testing.example_checks import scored
from ppokit.testing.subject import Subject


def nothing_wins(recipe: Recipe) -> Iterator[str]:
    """One sentence per reward by which no example of its author's scores more than the answer of nothing.

    Rewards without examples or weight are not asked, nor are those that cannot be asked outside a run.
    """
    for reward in recipe.rewards:
        if reward.settings.weight and any(example.better for example in reward.component.examples):
            yield from _of_reward(reward)


def _of_reward(reward: SelectedComponent) -> Iterator[str]:
    subject = Subject("rewards", reward.name, reward.component, reward.plugin)
    weight = reward.settings.weight
    for example in reward.component.examples:
        try:
            result = scored(subject, example, reward.options)
        except PpokitError:
            continue  # it may need what only a run has
        others = [weight * value for value in (*result.better, *result.worse) if value is not None]
        if result.nothing is not None and others and weight * result.nothing >= max(others):
            yield (
                f"{reward.where}: an answer of nothing, {example.nothing!r}, scores "
                f"{weight * result.nothing:g}, and no example of its author's more ({max(others):g} at most)"
                ": without another reward, the policy learns to say nothing"
            )
            return
