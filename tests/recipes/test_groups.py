"""Groups through the whole core: dynamic sampling, greedy baselines, truncated responses."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

import pytest
import torch

from ppokit import Component, PPOTrainer, Recipe, hookimpl
from ppokit.config.registry import PluginRegistry
from ppokit.plugin.types import Advantages, Rewards, Rollout
from runs import metrics_of, rollouts_of, weights_of

RecipeDict = Callable[..., dict[str, Any]]
Reward = Callable[[str], None]

# Prompts 0, 2 and 4 always get one reward; the others' are told apart by their length.
BY_PROMPT = """
def reward(responses, number, **columns):
    return [1.0 if n % 2 == 0 else float(len(text)) for text, n in zip(responses, number)]
"""
HARD = {1, 3, 5}


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rewards are imported from the working folder."""
    monkeypatch.chdir(tmp_path)


def recipe(
    recipe_dict: RecipeDict,
    tmp_path: Path,
    name: str = "run",
    registry: PluginRegistry | None = None,
    **sections: Any,
) -> Recipe:
    given = {
        "rewards": [{"use": "python", "function": "my_rewards.reward"}],
        "rollout": {
            "max_new_tokens": 8,
            "prompts_per_step": 3,
            "responses_per_prompt": 2,
            "dynamic_sampling": 2,
        },
        "run": {"steps": 2, "out": str(tmp_path / name)},
        **sections,
    }
    return Recipe.from_dict(recipe_dict(**given), registry)


def test_groups_of_equal_rewards_are_replaced(
    recipe_dict: RecipeDict, reward_module: Reward, tmp_path: Path
) -> None:
    reward_module(BY_PROMPT)
    trainer = PPOTrainer(recipe(recipe_dict, tmp_path))
    trainer.train()
    for line, (_, rows) in zip(
        metrics_of(tmp_path / "run"), rollouts_of(tmp_path / "run").items(), strict=True
    ):
        groups = {row["group"] for row in rows}
        trained = {row["group"] for row in rows if any(row["advantages"])}
        scores = {group: {row["score"] for row in rows if row["group"] == group} for group in groups}
        assert trained == {group for group in groups if len(scores[group]) > 1}
        assert trained <= HARD
        assert line["groups/dropped"] == len(groups - trained)
        assert line["groups/trained"] == len(trained)
        assert line["groups/resampled"] == len(groups) - 3
        assert len(trained) == 3 or len(groups) > 3
        # The mean reward is that of all that was sampled, or training would look worse as prompts get easy.
        assert line["reward/mean"] == pytest.approx(sum(row["score"] for row in rows) / len(rows), rel=1e-5)
        assert len({row["id"] for row in rows}) == len(rows)


def test_as_many_are_asked_as_were_dropped(
    recipe_dict: RecipeDict, reward_module: Reward, tmp_path: Path
) -> None:
    """Of the first three prompts asked, those that are easy; no prompt is asked twice in a step."""
    reward_module(BY_PROMPT)
    rollout = {"max_new_tokens": 8, "prompts_per_step": 3, "responses_per_prompt": 2, "dynamic_sampling": 1}
    trainer = PPOTrainer(recipe(recipe_dict, tmp_path, rollout=rollout))
    for prompts in trainer.prompts:
        first = trainer.collect(prompts)
        scored = trainer.score(first)
        dropped = [
            group
            for group in prompts.indices
            if len(set(scored.scores[first.group_ids == group].tolist())) == 1
        ]
        assert dropped, "else this test shows nothing"
        whole, _ = trainer.resample(first, scored)
        assert len(whole) == 2 * (3 + len(dropped))
        assert whole.ids[:6] == first.ids
        assert all(whole.group_ids.tolist().count(group) == 2 for group in whole.group_ids.tolist())
        trainer.step += 1


def test_the_bound_holds(recipe_dict: RecipeDict, reward_module: Reward, tmp_path: Path) -> None:
    """0 drops without asking again; and a step of nothing but equal rewards trains on nothing."""
    reward_module("def reward(responses, **columns):\n    return [1.0] * len(responses)\n")
    for bound, asked in ((0, 3), (1, 6)):
        rollout = {
            "max_new_tokens": 4,
            "prompts_per_step": 3,
            "responses_per_prompt": 2,
            "dynamic_sampling": bound,
        }
        trainer = PPOTrainer(recipe(recipe_dict, tmp_path, f"run{bound}", rollout=rollout))
        before = trainer.components.backend.hash(trainer.roles.is_policy)
        batch = trainer.collect(next(trainer.prompts))
        batch, rewards = trainer.resample(batch, trainer.score(batch))
        assert len(batch.group_ids.unique()) == asked
        trainer.update(batch, trainer.estimate(batch, rewards))
        assert trainer.components.backend.hash(trainer.roles.is_policy) == before


def test_a_resumed_run_resamples_the_same_prompts(
    recipe_dict: RecipeDict, reward_module: Reward, tmp_path: Path
) -> None:
    reward_module(BY_PROMPT)
    whole = recipe(recipe_dict, tmp_path, "whole", run={"steps": 3, "out": str(tmp_path / "whole")})
    PPOTrainer(whole).train()
    run = {"steps": 1, "out": str(tmp_path / "parts")}
    PPOTrainer(recipe(recipe_dict, tmp_path, run=run)).train()
    rest = recipe(recipe_dict, tmp_path, run={**run, "steps": 3})
    PPOTrainer(rest, resume=tmp_path / "parts").train()
    assert rollouts_of(tmp_path / "parts") == rollouts_of(tmp_path / "whole")
    ours, theirs = weights_of(tmp_path / "parts", 3), weights_of(tmp_path / "whole", 3)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


class AboveGreedy:
    """The score less that of the greedy response."""

    def __init__(self, options: Any, context: Any) -> None:
        pass

    def estimate(self, rollout: Rollout, rewards: Rewards) -> Advantages:
        assert rewards.greedy_returns is not None
        gap = rewards.scores - rewards.greedy_returns
        return Advantages(gap[:, None] * rollout.response_mask)


@hookimpl
def ppokit_advantage_estimators() -> list[Component]:
    """An estimator that needs greedy responses."""
    return [Component("above_greedy", AboveGreedy, needs=frozenset({"greedy"}))]


def test_greedy_responses_are_scored_and_are_those_of_the_policy(
    recipe_dict: RecipeDict, reward_module: Reward, tmp_path: Path
) -> None:
    reward_module("def reward(responses, **columns):\n    return [float(len(text)) for text in responses]\n")
    plugin = EntryPoint("advantages.above_greedy", __name__, "ppokit")
    registry = PluginRegistry(entry_points=[*entry_points(group="ppokit"), plugin])
    rewards = [{"use": "python", "function": "my_rewards.reward"}, {"use": "kl_penalty", "weight": 0.1}]
    given = recipe(
        recipe_dict,
        tmp_path,
        registry=registry,
        rewards=rewards,
        advantages={"use": "above_greedy"},
        losses=[{"use": "ppo_clip"}],
        rollout={"max_new_tokens": 8, "prompts_per_step": 3, "responses_per_prompt": 2},
    )
    trainer = PPOTrainer(given)
    rollout = trainer.collect(next(trainer.prompts))
    assert isinstance(rollout.greedy, Rollout)
    assert rollout.greedy.prompts == rollout.prompts[::2]
    assert rollout.greedy.responses == trainer.answer(rollout.prompts[::2])
    assert rollout.greedy.values is None
    assert rollout.greedy.ref_logprobs is not None
    rewards_found = trainer.score(rollout)
    assert rewards_found.greedy_returns is not None
    # Before any training the KL penalty is 0, but for rounding.
    lengths = [float(len(text)) for text in rollout.greedy.responses for _ in range(2)]
    assert rewards_found.greedy_returns.tolist() == pytest.approx(lengths, abs=1e-3)
    advantages = trainer.estimate(rollout, rewards_found)
    gaps = [len(text) - greedy for text, greedy in zip(rollout.responses, lengths, strict=True)]
    assert advantages.advantages[:, 0].tolist() == pytest.approx(gaps, abs=1e-2)
    trainer.update(rollout, advantages)


def test_truncated_responses_can_be_left_out(recipe_dict: RecipeDict, tmp_path: Path) -> None:
    """Stories this short are all truncated, so that nothing is left to learn from."""
    given = recipe_dict(
        advantages={"mask_truncated": True},
        rollout={"max_new_tokens": 2, "prompts_per_step": 4, "responses_per_prompt": 2},
    )
    trainer = PPOTrainer(Recipe.from_dict(given))
    before = trainer.components.backend.hash(trainer.roles.is_policy)
    trainer.train()
    assert trainer.components.backend.hash(trainer.roles.is_policy) == before
    assert [line["advantages/masked_truncated"] for line in metrics_of(tmp_path / "run")] == [1.0] * 3
