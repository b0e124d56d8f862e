"""A loop of one's own, a plugin of one's own, and what a reward is given."""

from __future__ import annotations

import ctypes
import json
import sys
from collections.abc import Callable
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from ppokit import Component, PPOTrainer, Recipe, hookimpl
from ppokit.cli.allocator import keep_freed_memory
from ppokit.config.presets import names
from ppokit.config.registry import PluginRegistry
from ppokit.data.batches import token_batch
from ppokit.errors import TrainingError
from ppokit.plugin.reward_output import RewardOutput
from ppokit.plugin.types import Rollout
from ppokit.training.microbatches import StepBatches
from runs import OPENERS, REPOSITORY, lasting, metrics_of, rollouts_of, weights_of

RecipeDict = Callable[..., dict[str, Any]]
README = REPOSITORY / "README.md"


def out(tmp_path: Path, name: str, steps: int = 2, **more: Any) -> dict[str, Any]:
    return {"steps": steps, "out": str(tmp_path / name), **more}


def readme_loop() -> str:
    """The code block of README that shows the loop."""
    (block,) = (b for b in README.read_text().split("```python\n") if "trainer.prompts" in b)
    return block.partition("```")[0]


def run_readme(recipe: dict[str, Any], folder: Path, monkeypatch: pytest.MonkeyPatch, loop: str = "") -> None:
    (folder / "my.yaml").write_text(yaml.safe_dump(recipe))
    monkeypatch.chdir(folder)
    exec(compile(loop or readme_loop(), "README.md", "exec"), {})


def assert_same_run(own: Path, theirs: Path) -> None:
    assert [lasting(line) for line in metrics_of(own)] == [lasting(line) for line in metrics_of(theirs)]
    assert rollouts_of(own) == rollouts_of(theirs)
    expected, actual = weights_of(theirs, 2), weights_of(own, 2)
    assert actual.keys() == expected.keys()
    assert all(torch.equal(actual[name], expected[name]) for name in expected)


def preset_recipe(recipe_dict: RecipeDict, preset: str, folder: Path) -> dict[str, Any]:
    """Responses that often earn the same reward, so that dynamic sampling has something to do."""
    recipe = recipe_dict(
        preset=preset,
        rollout={"max_new_tokens": 12, "stop": [".", ","], "responses_per_prompt": 2, "prompts_per_step": 4},
        rewards=[{"use": "pattern", "pattern": "a", "mode": "count", "clip": [0, 1]}],
        update={"learning_rate": 5e-3},
        run={"steps": 2, "out": str(folder), "sample_every": 0},
    )
    del recipe["losses"]
    return recipe


@pytest.mark.parametrize("preset", names())
def test_readmes_own_loop_is_what_train_runs(
    recipe_dict: RecipeDict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, preset: str
) -> None:
    PPOTrainer(Recipe.from_dict(preset_recipe(recipe_dict, preset, tmp_path / "theirs"))).train()
    run_readme(preset_recipe(recipe_dict, preset, tmp_path / "own"), tmp_path, monkeypatch)
    assert_same_run(tmp_path / "own", tmp_path / "theirs")


def test_readmes_loop_needs_its_resample(
    recipe_dict: RecipeDict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The comparison above sees a loop that leaves dynamic sampling out."""
    PPOTrainer(Recipe.from_dict(preset_recipe(recipe_dict, "dapo", tmp_path / "theirs"))).train()
    assert any(line["groups/resampled"] > 0 for line in metrics_of(tmp_path / "theirs"))
    lines = readme_loop().splitlines(keepends=True)
    without = "".join(line for line in lines if "trainer.resample" not in line)
    assert without != readme_loop()
    run_readme(preset_recipe(recipe_dict, "dapo", tmp_path / "own"), tmp_path, monkeypatch, without)
    with pytest.raises(AssertionError):
        assert_same_run(tmp_path / "own", tmp_path / "theirs")


@pytest.mark.parametrize("value", ["policy_trunk", "detached_trunk", "own_adapter"])
def test_one_trunk_is_read_once(recipe_dict: RecipeDict, tmp_path: Path, value: str) -> None:
    """Log-probabilities and values of one pass are those of two."""
    trainer = PPOTrainer(Recipe.from_dict(recipe_dict(value=value, run=out(tmp_path, "run", steps=3))))
    trainer.train()
    lines = metrics_of(tmp_path / "run")
    assert all(("time/values_s" in line) == (value == "own_adapter") for line in lines)
    rollout = trainer.collect(trainer.components.prompts.step(1))
    batch = token_batch(rollout, range(len(rollout)), trainer.roles.device)
    with torch.no_grad():
        values = trainer.roles.values(batch)
        logprobs, _ = trainer.roles.logprobs(batch, "policy", temperature=1.0)
    assert rollout.values is not None
    assert rollout.old_logprobs is not None
    assert values.abs().max() > 1e-3
    torch.testing.assert_close(rollout.values, values, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(rollout.old_logprobs, logprobs, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("engine", [{}, {"top_p": 0.9, "temperature": 0.7}], ids=["whole", "top_p"])
def test_the_samplers_logprobs_serve_as_well(
    recipe_dict: RecipeDict, tmp_path: Path, engine: dict[str, Any]
) -> None:
    """In float32 they are the trainer's to rounding, after steps of training too, and save its pass."""
    rollout = {"max_new_tokens": 10, "prompts_per_step": 4, "responses_per_prompt": 2, **engine}
    for name in ("trainer", "sampler"):
        update = {"learning_rate": 3e-3, "epochs": 2, "old_logprobs": name}
        sections = recipe_dict(update=update, rollout=rollout, run=out(tmp_path, name, steps=3))
        PPOTrainer(Recipe.from_dict(sections)).train()
    theirs, ours = (metrics_of(tmp_path / name) for name in ("trainer", "sampler"))
    for line, mine in zip(theirs, ours, strict=True):
        assert "time/logprobs_s" in line
        assert "time/logprobs_s" not in mine
        for key in ("kl/k1", "kl/k3", "policy/approx_kl", "loss/ppo_clip", "grad_norm"):
            assert mine[key] == pytest.approx(line[key], rel=1e-2, abs=1e-5), key
    assert ours[-1]["kl/k3"] > 1e-4
    expected, actual = (weights_of(tmp_path / name, 3) for name in ("trainer", "sampler"))
    for name, weight in expected.items():
        if name.startswith("weights/"):
            torch.testing.assert_close(actual[name], weight, atol=1e-4, rtol=1e-3)


def test_verbs_without_report_write_nothing(recipe_dict: RecipeDict, tmp_path: Path) -> None:
    trainer = PPOTrainer(Recipe.from_dict(recipe_dict()))
    for prompts in trainer.prompts:
        rollout = trainer.collect(prompts)
        trainer.update(rollout, trainer.estimate(rollout, trainer.score(rollout)))
    assert trainer.step == 3
    assert not (tmp_path / "run").exists()


class Ear:
    """Hears of a run's end."""

    def __init__(self) -> None:
        self.ends: list[tuple[int, str | None]] = []

    @hookimpl
    def on_run_end(self, step: int, error: str | None) -> None:
        self.ends.append((step, error))


def test_an_error_within_the_block_saves_the_last_step(recipe_dict: RecipeDict, tmp_path: Path) -> None:
    """As one within `train()` does, and it is the error that is raised."""
    ear = Ear()
    recipe = Recipe.from_dict(recipe_dict(run=out(tmp_path, "run", steps=3)))
    with pytest.raises(KeyError, match="mine"), PPOTrainer(recipe, observers=[ear]) as trainer:  # noqa: PT012
        for prompts in trainer.prompts:
            rollout = trainer.collect(prompts)
            rewards = trainer.score(rollout)
            advantages = trainer.estimate(rollout, rewards)
            trainer.report(rollout, rewards, advantages, trainer.update(rollout, advantages))
            raise KeyError("mine")
    assert ear.ends == [(1, "KeyError: 'mine'")]
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == ["step-000001"]
    assert (tmp_path / "run" / "policy").is_dir()
    with pytest.raises(TrainingError, match=r"ended after step 1 of 3, .*resume='.*run'"):
        trainer.train()
    resumed = PPOTrainer(recipe, observers=[ear], resume=tmp_path / "run")
    resumed.train()
    assert ear.ends[1:] == [(3, None)]
    resumed.train()  # nothing is left
    assert ear.ends[1:] == [(3, None)]


PLUGIN = '''"""Rewards early tokens, token by token."""

import torch

from ppokit import Component, Options, hookimpl
from ppokit.plugin.reward_output import RewardOutput


class EarlyOptions(Options):
    first: int = 2


class Early:
    def __init__(self, options, context):
        self.first = options.first

    def score(self, rollout):
        tokens = torch.zeros(rollout.response_ids.shape)
        tokens[:, : self.first] = 1.0
        return RewardOutput(torch.zeros(len(rollout)), ("scored",) * len(rollout), token_scores=tokens)


@hookimpl
def ppokit_reward_providers():
    return [Component("early", Early, options=EarlyOptions)]
'''


def test_a_third_partys_distribution(
    recipe_dict: RecipeDict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = tmp_path / "site"
    info = site / "their_reward-1.5.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: their-reward\nVersion: 1.5\n")
    (info / "entry_points.txt").write_text("[ppokit]\nrewards.early = their_reward\n")
    (site / "their_reward.py").write_text(PLUGIN)
    monkeypatch.syspath_prepend(str(site))
    recipe = Recipe.from_dict(
        recipe_dict(rewards=[{"use": "early", "first": 3, "weight": 0.5}], run=out(tmp_path, "run"))
    )
    PPOTrainer(recipe).train()
    monkeypatch.delitem(sys.modules, "their_reward")
    for rows in rollouts_of(tmp_path / "run").values():
        for row in rows:
            length = len(row["response_ids"])
            assert row["token_rewards"] == [0.5 if index < 3 else 0.0 for index in range(length)]
            assert row["reward/early"] == min(length, 3)
            assert row["outcome/early"] == "scored"
    provenance = json.loads((tmp_path / "run" / "provenance.json").read_text())
    assert provenance["plugins"]["rewards[0]"] == "their_reward, their-reward 1.5"


def test_every_column_arrives(
    recipe_dict: RecipeDict,
    reward_module: Callable[[str], None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    reward_module(
        "SEEN = []\n"
        "def reward(prompts, responses, prompt, number, bonus):\n"
        "    SEEN.extend(zip(prompts, prompt, number))\n"
        "    return [bonus * n for n in number]\n"
    )
    monkeypatch.chdir(tmp_path)
    rewards = [{"use": "python", "function": "my_rewards:reward", "arguments": {"bonus": 0.5}}]
    PPOTrainer(Recipe.from_dict(recipe_dict(rewards=rewards, run=out(tmp_path, "run")))).train()
    seen = sys.modules["my_rewards"].SEEN
    assert len(seen) == 16
    assert all(one == two == OPENERS[number] for one, two, number in seen)
    for rows in rollouts_of(tmp_path / "run").values():
        for row in rows:
            columns = json.loads(row["row"])
            assert columns == {"prompt": row["prompt"], "number": OPENERS.index(row["prompt"])}
            assert row["score"] == 0.5 * columns["number"]


class Flaky:
    """Fails for the first response of each prompt."""

    def score(self, rollout: Rollout) -> RewardOutput:
        outcomes = tuple("failed" if name.endswith("-000") else "scored" for name in rollout.ids)
        scores = torch.tensor([float("nan") if o == "failed" else float(i) for i, o in enumerate(outcomes)])
        return RewardOutput(scores, outcomes)  # type: ignore[arg-type]


@hookimpl
def ppokit_reward_providers() -> list[Component]:
    return [Component("flaky", lambda options, context: Flaky())]


def test_failed_samples_are_not_trained_on(recipe_dict: RecipeDict, tmp_path: Path) -> None:
    from importlib.metadata import entry_points

    registry = PluginRegistry(
        entry_points=[*entry_points(group="ppokit"), EntryPoint("rewards.flaky", __name__, "ppokit")]
    )
    recipe = Recipe.from_dict(
        recipe_dict(rewards=[{"use": "flaky"}], run=out(tmp_path, "run", steps=1, max_failed_rewards=0.5)),
        registry,
    )
    trainer = PPOTrainer(recipe)
    divided: list[list[str]] = []
    batcher = trainer.components.updater.microbatches
    divide = batcher.divide

    def watched(rollout: Rollout, *rest: Any) -> StepBatches:
        divided.append(rollout.ids)
        return divide(rollout, *rest)

    batcher.divide = watched  # type: ignore[method-assign]
    trainer.train()
    assert divided[-1] == [f"000001-{prompt:04d}-001" for prompt in range(4)]
    (line,) = metrics_of(tmp_path / "run")
    assert line["reward/excluded"] == line["reward/flaky/failed"] == 0.5
    assert line["reward/mean"] == line["reward/flaky"] == (1 + 3 + 5 + 7) / 4
    (rows,) = rollouts_of(tmp_path / "run").values()
    for row in rows:
        assert row["trained"] == (row["outcome/flaky"] == "scored")
        assert row["trained"] or set(row["advantages"]) == {0.0}


def test_more_failures_than_allowed_stop_the_run(recipe_dict: RecipeDict, tmp_path: Path) -> None:
    from importlib.metadata import entry_points

    from ppokit.errors import RewardError

    registry = PluginRegistry(
        entry_points=[*entry_points(group="ppokit"), EntryPoint("rewards.flaky", __name__, "ppokit")]
    )
    recipe = Recipe.from_dict(
        recipe_dict(rewards=[{"use": "flaky"}], run=out(tmp_path, "run", max_failed_rewards=0.49)), registry
    )
    with pytest.raises(RewardError, match="failed for 4 of 8 responses"):
        PPOTrainer(recipe).train()
    assert not (tmp_path / "run").exists()


def test_a_later_step_that_fails_is_in_the_samples_and_the_report(
    recipe_dict: RecipeDict, tmp_path: Path
) -> None:
    """With the cause and the seconds of each failure, and trained on by nobody; the step before stands."""
    from importlib.metadata import entry_points

    from ppokit.errors import RewardError

    registry = PluginRegistry(
        entry_points=[*entry_points(group="ppokit"), EntryPoint("rewards.flaky", __name__, "ppokit")]
    )
    run = out(tmp_path, "run", max_failed_rewards=0.5, report=True)
    recipe = Recipe.from_dict(recipe_dict(rewards=[{"use": "flaky"}], run=run), registry)

    class Strict:
        @hookimpl
        def on_step(self) -> None:
            trainer.components.scorer.max_failed = 0.0

    trainer = PPOTrainer(recipe, observers=[Strict()])
    with pytest.raises(RewardError, match="failed for 4 of 8 responses"):
        trainer.train()
    assert len(metrics_of(tmp_path / "run")) == 1
    _, rows = rollouts_of(tmp_path / "run").values()
    assert [row["outcome/flaky"] for row in rows].count("failed") == 4
    assert not any(row["trained"] for row in rows)
    page = (tmp_path / "run" / "report.html").read_text()
    assert "Step 2 failed: its samples are here" in page
    assert "8 of 8 one by one" in page


def test_a_trainer_leaves_the_allocator_alone(
    recipe_dict: RecipeDict, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is the whole process's, so that commands set it."""
    called: list[str] = []

    class Libc:
        def __init__(self, *_: object, **__: object) -> None:
            pass

        def __getattr__(self, name: str) -> Callable[..., int]:
            called.append(name)
            return lambda *_: 0

    monkeypatch.setattr(ctypes, "CDLL", Libc)
    PPOTrainer(Recipe.from_dict(recipe_dict())).end()
    assert "mallopt" not in called
    keep_freed_memory()
    assert ("mallopt" in called) == sys.platform.startswith("linux")
