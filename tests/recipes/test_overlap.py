"""Rewards beside the reference pass, and beside the next step's answers (`rewards[].overlap`)."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from ppokit import PPOTrainer, Recipe, hookimpl
from ppokit.errors import PluginError, RecipeError, TrainingError
from ppokit.plugin.types import Rollout
from runs import lasting, metrics_of, rollouts_of, weights_of
from test_resume import StopIn, assert_same

RecipeDict = Callable[..., dict[str, Any]]
MODULE = """
import asyncio
import threading

from ppokit.plugin import RewardOutput

BEGUN, GATE = threading.Event(), threading.Event()
GATE.set()
ORDER = []


def lengths(rollout):
    return RewardOutput.from_values([len(text) / 10 for text in rollout.responses])


class Awaits:
    async def score(self, rollout, context):
        BEGUN.set()
        assert await asyncio.to_thread(GATE.wait, 5), "nobody opens the gate"
        ORDER.append(f"rewards of {context.step}")
        return lengths(rollout)


class Threaded:
    def score(self, rollout, context):
        BEGUN.set()
        assert GATE.wait(5), "nobody opens the gate"
        ORDER.append(f"others of {context.step}")
        return lengths(rollout)
"""
SLOW = {"use": "slow_rewards:Awaits", "name": "slow", "overlap": True}
PENALTY = {"use": "kl_penalty", "weight": 0.05}


@pytest.fixture
def slow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The module of slow rewards."""
    (tmp_path / "slow_rewards.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    sys.modules.pop("slow_rewards", None)
    import slow_rewards  # type: ignore[import-not-found]

    yield slow_rewards
    sys.modules.pop("slow_rewards", None)


class OnPhase:
    """An observer that calls a function at a phase of a step."""

    def __init__(self, step: int, phase: str, call: Callable[[], object]) -> None:
        self.at, self.call = (step, phase), call

    @hookimpl
    def on_phase(self, step: int, phase: str) -> None:
        if (step, phase) == self.at:
            self.call()


def run(tmp_path: Path, name: str, steps: int = 4, **more: Any) -> dict[str, Any]:
    return {"steps": steps, "out": str(tmp_path / name), "checkpoint_every": 2, "sample_every": 0, **more}


def test_a_slow_reward_is_asked_beside_the_reference_pass(
    slow: Any, recipe_dict: RecipeDict, tmp_path: Path
) -> None:
    seen = []
    observer = OnPhase(1, "reference", lambda: seen.append(slow.BEGUN.wait(5)))
    rewards = [{"use": "slow_rewards:Awaits"}, PENALTY]
    recipe = recipe_dict(rewards=rewards, run=run(tmp_path, "run", 1))
    PPOTrainer(Recipe.from_dict(recipe), observers=[observer]).train()
    assert seen == [True]
    assert len(slow.ORDER) == 1, "asked once"


def test_answers_of_what_was_begun_with_are_for_that_rollout(slow: Any, recipe_dict: RecipeDict) -> None:
    """A loop of one's own may score something else, or the same once more."""
    recipe = Recipe.from_dict(recipe_dict(rewards=[{"use": "slow_rewards:Awaits"}, PENALTY]))
    with PPOTrainer(recipe) as trainer:
        rollout = trainer.collect(next(trainer.prompts))
        part = rollout.select([0, 1])
        assert len(trainer.score(part).scores) == 2
        first, second = trainer.score(rollout), trainer.score(rollout)
    assert first.scores.tolist() == second.scores.tolist()
    assert first.scores.tolist() == pytest.approx([len(text) / 10 for text in rollout.responses])


def test_rewards_overlap_with_the_next_answers(slow: Any, recipe_dict: RecipeDict, tmp_path: Path) -> None:
    """Those that may; the others are there before."""
    slow.GATE.clear()
    rewards = [SLOW, {"use": "slow_rewards:Threaded", "name": "others", "retries": 1}, PENALTY]

    class Opens:
        @hookimpl
        def on_phase(self, step: int, phase: str) -> None:
            if phase == "sampling":
                slow.ORDER.append(f"answers of {step}")
                if step == 1:
                    slow.GATE.set()  # for the others of step 1
                    return
                assert f"others of {step - 1}" in slow.ORDER
                assert f"rewards of {step - 1}" not in slow.ORDER or step == 2

    trainer = PPOTrainer(
        Recipe.from_dict(recipe_dict(rewards=rewards, run=run(tmp_path, "run", 2))), observers=[Opens()]
    )
    trainer.train()
    assert slow.ORDER.index("answers of 2") > slow.ORDER.index("others of 1")
    slow.ORDER.clear()
    slow.GATE.clear()
    recipe = recipe_dict(rewards=[SLOW, PENALTY], run=run(tmp_path, "other", 2))
    PPOTrainer(Recipe.from_dict(recipe), observers=[OnPhase(2, "sampling", slow.GATE.set)]).train()
    assert slow.ORDER == ["rewards of 1", "rewards of 2"], "which waited for the answers of 2"


@pytest.fixture
def straight(slow: Any, recipe_dict: RecipeDict, tmp_path: Path) -> Path:
    """A run of four steps with overlap."""
    recipe = recipe_dict(rewards=[SLOW, PENALTY], run=run(tmp_path, "straight"))
    PPOTrainer(Recipe.from_dict(recipe)).train()
    return tmp_path / "straight"


def test_it_is_one_step_off_policy_and_nothing_else(
    straight: Path, recipe_dict: RecipeDict, tmp_path: Path
) -> None:
    """The same numbers as of a loop that answers, scores and updates one after the other, in that order."""
    rewards = [{**SLOW, "overlap": False}, PENALTY]
    with PPOTrainer(Recipe.from_dict(recipe_dict(rewards=rewards, run=run(tmp_path, "loop")))) as trainer:
        prompts = [trainer.components.prompts.step(step) for step in range(1, 5)]
        rollout = trainer.collect(prompts[0])
        for step in range(1, 5):
            scored = trainer.score(rollout)
            following = (
                trainer.collector.collect(prompts[step], step + 1, updates=step - 1) if step < 4 else None
            )
            advantages = trainer.estimate(rollout, scored)
            trainer.report(rollout, scored, advantages, trainer.update(rollout, advantages))
            rollout = following  # type: ignore[assignment]
    loop = tmp_path / "loop"
    lines, expected = ([lasting(line) for line in metrics_of(path)] for path in (straight, loop))
    gaps = [line.pop("rollout/logprob_gap", None) for line in lines]
    for line in expected:
        line.pop("rollout/logprob_gap", None)
    assert lines == expected
    assert rollouts_of(straight) == rollouts_of(loop)
    own, theirs = weights_of(straight, 4), weights_of(loop, 4)
    assert all(torch.equal(own[name], theirs[name]) for name in theirs)
    assert [line["rollout/staleness"] for line in lines] == [0, 1, 1, 1]
    assert all(gap is not None and gap < 1e-3 for gap in gaps), "compared in each step"


def test_the_ratio_is_to_the_policy_that_answered(slow: Any, recipe_dict: RecipeDict) -> None:
    """Steps 1 and 2 are both answered by the untrained policy, which is the reference."""
    with PPOTrainer(Recipe.from_dict(recipe_dict(rewards=[SLOW, PENALTY]))) as trainer:
        for step, prompts in enumerate(trainer.prompts, start=1):
            rollout = trainer.collect(prompts)
            assert rollout.old_logprobs is not None
            assert rollout.ref_logprobs is not None
            distance = (rollout.old_logprobs - rollout.ref_logprobs).abs().max()
            assert (distance < 1e-5) == (step < 3)
            now = trainer.collector.view(step).logprobs(rollout)
            moved = ((now - rollout.old_logprobs).square()[rollout.loss_mask]).mean().sqrt()
            stats = trainer.update(rollout, trainer.estimate(rollout, trainer.score(rollout)))
            assert stats["policy/ratio_std_at_start"] == pytest.approx(float(moved), abs=1e-6)
            assert (stats["policy/ratio_std_at_start"] > 1e-3) == (step > 1)


@pytest.mark.parametrize("phase", ["reward", "sampling", "update"])
def test_a_run_that_goes_on_trains_on_what_was_answered(
    straight: Path, recipe_dict: RecipeDict, tmp_path: Path, phase: str
) -> None:
    out = tmp_path / "stopped"
    recipe = Recipe.from_dict(recipe_dict(rewards=[SLOW, PENALTY], run=run(tmp_path, "stopped")))
    at = StopIn(4 if phase == "sampling" else 3, phase)
    with pytest.raises(PluginError, match="StopError"):
        PPOTrainer(recipe, observers=[at]).train()
    PPOTrainer(Recipe.load(out / "recipe.yaml"), resume=out).train()
    assert_same(out, straight, 4)


def test_with_greedy_answers_and_dynamic_sampling(slow: Any, recipe_dict: RecipeDict, tmp_path: Path) -> None:
    rollout = {"max_new_tokens": 6, "prompts_per_step": 2, "responses_per_prompt": 2, "dynamic_sampling": 1}
    sections = {
        "rewards": [{**SLOW, "clip": [0, 0.5]}, PENALTY],
        "advantages": {"use": "remax"},
        "losses": [{"use": "ppo_clip"}],
        "rollout": rollout,
    }
    for name in ("straight", "stopped"):
        recipe = Recipe.from_dict(recipe_dict(**sections, run=run(tmp_path, name, 3, checkpoint_every=1)))
        observers = [StopIn(3, "update")] if name == "stopped" else []
        trainer = PPOTrainer(recipe, observers=observers)
        if observers:
            with pytest.raises(PluginError, match="StopError"):
                trainer.train()
            trainer = PPOTrainer(recipe, resume=tmp_path / name)
        trainer.train()
    assert_same(tmp_path / "stopped", tmp_path / "straight", 3)


def test_an_engine_that_answers_as_another_policy_is_caught(
    slow: Any, recipe_dict: RecipeDict, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the policy is still the one that answered, or nothing could be compared."""
    trainer = PPOTrainer(Recipe.from_dict(recipe_dict(rewards=[SLOW, PENALTY])))
    generate = trainer.collector.generator.engine.instance.generate

    def wrong(policy: Any, request: Any) -> Any:
        result = generate(policy, request)
        if policy.version == 1:
            result.policy_logprobs[:] = [[number - 1 for number in row] for row in result.policy_logprobs]
        return result

    engine = type(trainer.collector.generator.engine.instance)
    monkeypatch.setattr(engine, "generate", lambda _, *arguments: wrong(*arguments))
    with pytest.raises(TrainingError, match="answers with another policy than the one that is trained"):
        trainer.train()
    assert trainer.step == 1


@pytest.mark.parametrize(
    ("sections", "problem"),
    [
        ({"update": {"old_logprobs": "sampler"}}, "update.old_logprobs: sampler"),
        ({"losses": [{"use": "entropy"}]}, "no loss of this recipe has a ratio"),
        ({"losses": [{"use": "reinforce"}]}, "importance_weight: got false"),
    ],
)
def test_what_would_train_on_wrong_ratios_is_refused(
    slow: Any, recipe_dict: RecipeDict, sections: dict[str, Any], problem: str
) -> None:
    with pytest.raises(RecipeError, match=problem):
        Recipe.from_dict(recipe_dict(rewards=[SLOW, PENALTY], **sections))
    Recipe.from_dict(recipe_dict(rewards=[{**SLOW, "overlap": False}, PENALTY], **sections))


def test_responses_that_are_left_out_keep_their_old_logprobs(
    slow: Any, recipe_dict: RecipeDict, tmp_path: Path
) -> None:
    seen: list[Rollout] = []
    recipe = recipe_dict(
        rewards=[SLOW, PENALTY],
        advantages={"use": "gae", "mask_truncated": True},
        losses=[{"use": "ppo_clip"}],
        rollout={"max_new_tokens": 10, "prompts_per_step": 4, "responses_per_prompt": 2, "stop": ["."]},
    )
    with PPOTrainer(Recipe.from_dict(recipe)) as trainer:
        for prompts in trainer.prompts:
            rollout = trainer.collect(prompts)
            advantages = trainer.estimate(rollout, trainer.score(rollout))
            stats = trainer.update(rollout, advantages)
            seen.append(rollout)
            if advantages.trained is not None and 0 < int(advantages.trained.sum()) < len(rollout):
                assert (stats.get("policy/ratio_std_at_start", 0) > 1e-4) == (len(seen) > 1)
    assert len(seen) == 3
