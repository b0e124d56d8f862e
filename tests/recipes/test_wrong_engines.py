"""Engines that answer with another policy than the one that trains are found before a weight moves."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from ppokit import PPOTrainer, Recipe
from ppokit.errors import TrainingError
from ppokit.models.roles import ModelRoles
from ppokit.rollout.load_policy import load_policy
from ppokit_rollouts import readers
from ppokit_rollouts.reading import Reading
from ppokit_rollouts.transformers_engine import TransformersEngine

RecipeDict = Callable[..., dict[str, Any]]


def disturbed_reader(change: Callable[..., None]) -> Any:
    """Wrong only where responses are sampled: a model that is always wrong is read in another way."""
    plain = Reading.reader

    def reader(self: Reading, max_new_tokens: int) -> Any:
        own: Any = plain(self, max_new_tokens)
        forward = own._forward

        def disturbed(input_ids: Tensor, mask: Tensor, positions: Tensor, state: Any) -> Any:
            arguments = {"mask": mask, "positions": positions}
            change(arguments, input_ids)
            return forward(input_ids, arguments["mask"], arguments["positions"], state)

        own._forward = disturbed
        return own

    return reader


def attend_to_padding(arguments: dict[str, Tensor], input_ids: Tensor) -> None:
    arguments["mask"] = torch.ones_like(arguments["mask"])


def lose_count(arguments: dict[str, Tensor], input_ids: Tensor) -> None:
    if input_ids.shape[1] == 1:
        arguments["positions"] = arguments["positions"] + 40


def trainer_of(recipe_dict: RecipeDict, **sections: Any) -> PPOTrainer:
    rewards = [{"use": "pattern", "pattern": "a", "mode": "count"}]
    return PPOTrainer(Recipe.from_dict(recipe_dict(rewards=rewards, **sections)))


@pytest.mark.parametrize("cause", ["positions", "cache"])
@pytest.mark.parametrize("minibatches", [1, 2])
def test_wrong_forwards(
    recipe_dict: RecipeDict, monkeypatch: pytest.MonkeyPatch, cause: str, minibatches: int
) -> None:
    change = {"positions": attend_to_padding, "cache": lose_count}[cause]
    monkeypatch.setattr(Reading, "reader", disturbed_reader(change))
    # One group of prompts, so that the shorter ones are padded.
    monkeypatch.setattr(readers, "supports_concat", lambda _: False)
    with trainer_of(recipe_dict, update={"minibatches": minibatches}) as trainer:
        before = trainer.components.policy_hash()
        with pytest.raises(TrainingError, match=rf"float32 explains 0\.001\. What fits: (the )?{cause}"):
            trainer.train()
        assert trainer.components.policy_hash() == before, "nothing was trained"


@pytest.mark.parametrize("old_logprobs", ["trainer", "sampler"])
def test_another_prompt(recipe_dict: RecipeDict, monkeypatch: pytest.MonkeyPatch, old_logprobs: str) -> None:
    """Also where a reward compares the sampler's numbers with the reference's: that one is right."""
    generate = TransformersEngine.generate

    def cut(self: Any, policy: Any, request: Any) -> Any:
        prompts = replace(request.prompts, prompt_ids=[ids[:1] for ids in request.prompts.prompt_ids])
        return generate(self, policy, replace(request, prompts=prompts))

    monkeypatch.setattr(TransformersEngine, "generate", cut)
    with (
        PPOTrainer(Recipe.from_dict(recipe_dict(update={"old_logprobs": old_logprobs}))) as trainer,
        pytest.raises(TrainingError, match="What fits: the prompt's template, or other weights"),
    ):
        trainer.train()


@pytest.mark.parametrize("old_logprobs", ["trainer", "sampler"])
def test_an_engine_that_lost_its_adapter(
    recipe_dict: RecipeDict, monkeypatch: pytest.MonkeyPatch, tiny_model: Path, old_logprobs: str
) -> None:
    """Unseen while the adapter is 0; found once it has learned, before it learns from it."""
    base = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32).eval()
    monkeypatch.setattr(ModelRoles, "sampler", lambda self: base)
    update = {"learning_rate": 0.02, "old_logprobs": old_logprobs, "minibatches": 2}
    run = {"steps": 3, "out": "unused"}
    recipe = recipe_dict(update=update)
    recipe["run"] = {**recipe["run"], **{"steps": run["steps"]}}
    with PPOTrainer(Recipe.from_dict(recipe)) as trainer:
        with pytest.raises(TrainingError, match="What fits: the adapter: these are"):
            trainer.train()
        assert trainer.step in (1, 2)


@pytest.mark.parametrize(
    ("dtype", "rollout"),
    [
        ("bfloat16", {}),
        ("float32", {"top_p": 0.8, "min_new_tokens": 4, "temperature": 0.7}),
        ("float32", {"top_k": 5}),
    ],
    ids=["bfloat16", "top-p", "top-k"],
)
def test_the_right_engine_is_within_what_the_dtype_explains(
    recipe_dict: RecipeDict, dtype: str, rollout: dict[str, Any]
) -> None:
    recipe = recipe_dict(update={"learning_rate": 0.01, "minibatches": 2})
    recipe["model"] = {**recipe["model"], "dtype": dtype}
    recipe["rollout"] = {**recipe["rollout"], **rollout}
    with PPOTrainer(Recipe.from_dict(recipe)) as trainer:
        for _, prompts in zip(range(3), trainer.prompts, strict=False):
            sampled = trainer.collect(prompts)
            stats = trainer.update(sampled, trainer.estimate(sampled, trainer.score(sampled)))
            assert 0 < stats["rollout/logprob_gap"] < (2e-5 if dtype == "float32" else 0.1)


@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`:UserWarning")
@pytest.mark.filterwarnings("ignore:Setting `save_embedding_layers`:UserWarning")
def test_what_is_loaded_is_what_was_trained_where_embeddings_are_tied(
    recipe_dict: RecipeDict, tiny_model: Path, tmp_path: Path
) -> None:
    """An adapter on tied embeddings must not reach the output layer, which shares their weight."""
    model = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    assert model.config.tie_word_embeddings
    recipe = recipe_dict(
        lora={"r": 4, "target_modules": ["q_proj", "embed_tokens"]}, update={"learning_rate": 0.02}
    )
    with PPOTrainer(Recipe.from_dict(recipe)) as trainer:
        trainer.train()
        rollout = trainer.collect(next(trainer.components.prompts.steps(1, 1)))
        expected = trainer.collector.view(trainer.step + 1).logprobs(rollout)
        folder = trainer.run_dir.policy_folder
    loaded = load_policy(Recipe.from_dict(recipe), folder).logprobs(rollout)
    torch.testing.assert_close(loaded, expected, atol=1e-4, rtol=0)
    untrained = load_policy(Recipe.from_dict(recipe), None).logprobs(rollout)
    assert float((untrained - expected).abs().max()) > 0.01
