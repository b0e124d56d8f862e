"""What is asked of a rollout engine in a step: no more than the recipe's components use."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ppokit import PPOTrainer, Recipe
from ppokit.plugin import GenerationRequest
from ppokit_rollouts.transformers_engine import TransformersEngine

RecipeDict = Callable[..., dict[str, Any]]


@pytest.mark.parametrize(
    ("old_logprobs", "minibatches", "rewards", "used"),
    [
        ("trainer", 1, ["kl_penalty"], False),
        ("sampler", 1, ["kl_penalty"], True),
        ("sampler", 1, [], False),  # the first training pass computes them anyway
        ("sampler", 2, [], True),
    ],
)
def test_the_samplers_logprobs_are_the_old_ones_where_they_are_used(
    recipe_dict: RecipeDict,
    monkeypatch: pytest.MonkeyPatch,
    old_logprobs: str,
    minibatches: int,
    rewards: list[str],
    used: bool,
) -> None:
    requests: list[GenerationRequest] = []
    generate = TransformersEngine.generate

    def watched(self: TransformersEngine, policy: Any, request: GenerationRequest) -> Any:
        requests.append(request)
        return generate(self, policy, request)

    monkeypatch.setattr(TransformersEngine, "generate", watched)
    pattern = {"use": "pattern", "pattern": "a", "mode": "count"}
    sections = recipe_dict(
        rewards=[pattern, *({"use": name} for name in rewards)],
        losses=[{"use": "ppo_clip"}],
        advantages={"use": "reinforce_plus_plus"},
        update={"old_logprobs": old_logprobs, "minibatches": minibatches},
    )
    with PPOTrainer(Recipe.from_dict(sections)) as trainer:
        rollout = trainer.collect(next(trainer.prompts))
    (request,) = requests
    assert request.policy_logprobs  # at the least to compare them with the trainer's
    assert request.training
    assert request.seeds is not None
    assert rollout.policy_logprobs is not None
    assert (rollout.old_logprobs is not None) is (used or bool(rewards))
    assert (rollout.old_logprobs is not None and rollout.old_logprobs.equal(rollout.policy_logprobs)) is used


def test_the_version_is_the_number_of_updates(recipe_dict: RecipeDict, tmp_path: Path) -> None:
    with PPOTrainer(Recipe.from_dict(recipe_dict())) as trainer:
        versions, hashes = [], []
        for prompts in trainer.prompts:
            policy = trainer.collector.policy(trainer.step + 1)
            versions.append(policy.version)
            hashes.append(policy.adapter_hash)
            rollout = trainer.collect(prompts)
            assert set(rollout.policy_version.tolist()) == {policy.version}
            trainer.update(rollout, trainer.estimate(rollout, trainer.score(rollout)))
    assert versions == [0, 1, 2]
    assert len(set(hashes)) == 3


def test_how_the_update_goes_through_the_model_is_the_recipes(recipe_dict: RecipeDict) -> None:
    audits = []
    for packed in (True, False):
        keys = {"layout": "packed", "activation_checkpointing": True} if packed else {}
        with PPOTrainer(Recipe.from_dict(recipe_dict(update=keys))) as trainer:
            rollout = trainer.collect(next(trainer.prompts))
            batches = trainer.components.updater.microbatches.divide(rollout, 1)
            assert {micro.batch.row is not None for own in batches.micros for micro in own} == {packed}
            audits.append(trainer.components.audit["activations"])
    assert 0 < audits[0] < audits[1] / 2
