"""Training with an engine that asks a server over HTTP: outcomes, foreign tokens, stale weights, resume."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import server_engine
from ppokit import PPOTrainer, Recipe
from ppokit.errors import RolloutError
from ppokit.models.merged import MergedSampler
from ppokit.models.roles import ModelRoles
from runs import metrics_of, rollouts_of, weights_of

RecipeDict = Callable[..., dict[str, Any]]


@pytest.fixture
def url(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    def forbidden(*_: object) -> None:
        raise AssertionError("the engine touched a model of this process")

    monkeypatch.setattr(ModelRoles, "sampler", forbidden)
    monkeypatch.setattr(MergedSampler, "merged", forbidden)
    with server_engine.serving(str(tiny_model)) as (_, address):
        yield address


def recipe_of(recipe_dict: RecipeDict, url: str, out: Path, *, steps: int = 3, **engine: Any) -> Recipe:
    return Recipe.from_dict(
        recipe_dict(
            rollout={
                "use": "server_engine:component",
                "url": url,
                "max_new_tokens": 6,
                "prompts_per_step": 3,
                "responses_per_prompt": 2,
                **engine,
            },
            losses=[
                {"use": "ppo_clip"},
                {"use": "value_clip", "weight": 0.1},
                {"use": "off_policy_correction"},
            ],
            run={"steps": steps, "out": str(out), "sample_every": 0, "max_failed_responses": 0.4},
        )
    )


def test_a_run_touches_no_model_here(recipe_dict: RecipeDict, tmp_path: Path, url: str) -> None:
    """Two of six responses fail, the server is an update behind at step 2, a tool's tokens count nowhere."""
    closed = server_engine.ServerEngine.closed
    PPOTrainer(recipe_of(recipe_dict, url, tmp_path / "run")).train()
    assert server_engine.ServerEngine.closed == closed + 1
    lines = metrics_of(tmp_path / "run")
    assert [line["rollout/failed"] for line in lines] == [pytest.approx(1 / 3)] * 3
    assert [line["rollout/staleness"] for line in lines] == [0, 1, 0]
    assert [line["rollout/staleness_max"] for line in lines] == [0, 1, 0]
    assert all(line["reward/pattern"] is not None for line in lines)
    assert "reward/pattern/abstained" not in lines[0]
    assert lines[0]["kl/k3"] < 1e-6
    steps = rollouts_of(tmp_path / "run")
    for step, rows in enumerate(steps.values(), 1):
        assert [row["outcome"] == "failed" for row in rows] == [False, False, True] * 2
        assert "truncated" in {row["outcome"] for row in rows}
        for row in rows:
            assert row["policy_version"] == (2 if step == 3 else 0)
            if row["outcome"] == "failed":
                assert (row["response"], row["response_ids"], row["trained"]) == ("overloaded", [], False)
                continue
            assert row["trained"]
            own = [True, True, False, False, True, True][: len(row["response_ids"])]
            assert row["loss_mask"] == own
            for name in ("sampler_logprobs", "kl/k1", "advantages", "token_rewards"):
                assert all(n == 0 for n, mine in zip(row[name], own, strict=True) if not mine), name
            assert all(n < 0 for n, mine in zip(row["sampler_logprobs"], own, strict=True) if mine)


def test_foreign_tokens_are_read_by_those_behind_them(
    recipe_dict: RecipeDict, tmp_path: Path, url: str
) -> None:
    """The trainer's log-probabilities are those of the server, which read the tool's tokens too."""
    trainer = PPOTrainer(recipe_of(recipe_dict, url, tmp_path / "run"))
    rollout = trainer.collect(next(trainer.prompts))
    assert rollout.old_logprobs is not None
    assert bool((rollout.response_mask & ~rollout.loss_mask).any())
    torch.testing.assert_close(rollout.old_logprobs, rollout.sampler_logprobs, atol=1e-4, rtol=1e-4)
    trainer.end()


def test_nothing_of_foreign_tokens_trains(recipe_dict: RecipeDict, tmp_path: Path, url: str) -> None:
    """Other log-probabilities, rewards and advantages of theirs give the same weights, bit for bit."""
    hashes = []
    for foreign in (None, -50.0, 3.0):
        recipe = recipe_of(recipe_dict, url, tmp_path / str(foreign), foreign_logprob=foreign)
        trainer = PPOTrainer(recipe)
        for prompts in trainer.prompts:
            rollout = trainer.collect(prompts)
            rewards = trainer.score(rollout)
            others = ~rollout.loss_mask
            if foreign is not None:
                spoilt = rewards.token_rewards.masked_fill(others, foreign)
                rewards = replace(rewards, token_rewards=spoilt)
            advantages = trainer.estimate(rollout, rewards)
            if foreign is not None:
                spoilt = advantages.advantages.masked_fill(others, foreign)
                advantages = replace(advantages, advantages=spoilt)
            trainer.update(rollout, advantages)
        hashes.append(trainer.collector.policy_hash())
        trainer.end()
    assert len(set(hashes)) == 1


def test_a_run_goes_on_as_if_it_had_not_stopped(recipe_dict: RecipeDict, tmp_path: Path, url: str) -> None:
    PPOTrainer(recipe_of(recipe_dict, url, tmp_path / "whole", steps=4)).train()
    with server_engine.serving(str(recipe_dict()["model"]["name"])) as (_, address):
        # The first two steps of four: a checkpoint, and a server that starts anew.
        recipe = recipe_of(recipe_dict, address, tmp_path / "half", steps=4)
        trainer = PPOTrainer(recipe)
        for prompts in trainer.prompts:
            rollout = trainer.collect(prompts)
            rewards = trainer.score(rollout)
            advantages = trainer.estimate(rollout, rewards)
            trainer.report(rollout, rewards, advantages, trainer.update(rollout, advantages))
            if trainer.step == 2:
                break
        trainer.save()
        trainer.end()
    recipe = recipe_of(recipe_dict, url, tmp_path / "half", steps=4)
    PPOTrainer(recipe, resume=tmp_path / "half").train()
    expected, actual = (weights_of(tmp_path / name, 4) for name in ("whole", "half"))
    for name, weight in expected.items():
        assert torch.equal(actual[name], weight), name


def test_too_many_failures_end_the_run(recipe_dict: RecipeDict, tmp_path: Path, url: str) -> None:
    settings = recipe_of(recipe_dict, url, tmp_path / "run").settings
    strict = replace_failed(recipe_of(recipe_dict, url, tmp_path / "run"), settings, 0.3)
    with pytest.raises(
        RolloutError, match=r"server.*rollout\.use.*2 of 6 .*max_failed_responses.*0\.3.*overloaded"
    ):
        PPOTrainer(strict).train()


def replace_failed(recipe: Recipe, settings: Any, share: float) -> Recipe:
    run = settings.run.model_copy(update={"max_failed_responses": share})
    return replace(recipe, settings=settings.model_copy(update={"run": run}))
