"""Components of every kind in whole runs: events, state, their end, and what their faults do."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ppokit import PPOTrainer, Recipe
from ppokit.errors import PluginError, PpokitWarning
from runs import metrics_of

RecipeDict = Callable[..., dict[str, Any]]

COMPONENTS = '''
import asyncio
import os
import sys

import torch

from ppokit.plugin import Advantages, LossOutput, RewardOutput, broadcast_to_tokens, hookimpl

HEARD = []


class Counts:
    """Counts steps, in a tensor and under an integer key."""

    def __init__(self):
        self.steps, self.seen = torch.zeros(()), {}

    @hookimpl
    def on_step(self, step, rollout):
        self.steps += 1
        self.seen[step] = (len(rollout), type(self).__name__)

    @hookimpl
    def on_run_end(self, error):
        HEARD.append((type(self).__name__, "end", error))

    def state_dict(self):
        return {"steps": self.steps, "seen": self.seen}

    def load_state_dict(self, state):
        self.steps, self.seen = state["steps"], state["seen"]

    def close(self):
        HEARD.append((type(self).__name__, "close", self.steps.item(), dict(self.seen)))


class Awaited(Counts):
    """Is closed by a coroutine."""

    async def close(self):
        await asyncio.sleep(0)
        super().close()


class Reward(Awaited):
    def score(self, rollout):
        return RewardOutput.from_values([float(len(text)) for text in rollout.responses])


class Estimator(Awaited):
    def estimate(self, rollout, rewards):
        return Advantages(broadcast_to_tokens(rewards.scores - rewards.scores.mean(), rollout.response_mask))


class Policy(Counts):
    needs = {"new_logprobs"}

    def token_losses(self, inputs):
        return LossOutput(-inputs.new_logprobs * inputs.advantages)


class Watcher(Awaited):
    pass


class Fails(Watcher):
    @hookimpl
    def on_step(self, step):
        raise ValueError("broken")


class Exits(Policy):
    def token_losses(self, inputs):
        sys.exit(0)


class ExitsAtBuild(Watcher):
    def __init__(self):
        sys.exit(0)


class NoReward(Reward):
    def __init__(self):
        raise ValueError("no file")


class Forks(Reward):
    def score(self, rollout):
        child = os.fork()
        if child:
            os.waitpid(child, 0)
        return super().score(rollout)


class ForksAndFails(Watcher):
    @hookimpl
    def on_step(self, step):
        child = os.fork()
        if not child:
            raise ValueError("in the child")
        os.waitpid(child, 0)


class Unsaved(Watcher):
    def state_dict(self):
        return {"set": {1} if self.seen else None}
'''


@pytest.fixture
def components(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """What the components of `my_components` have heard."""
    (tmp_path / "my_components.py").write_text(COMPONENTS)
    monkeypatch.syspath_prepend(str(tmp_path))
    import my_components  # type: ignore[import-not-found]

    yield my_components.HEARD
    sys.modules.pop("my_components")


def recipe_of(recipe_dict: RecipeDict, out: Path, **changes: Any) -> Recipe:
    sections = {
        "rewards": [{"use": "my_components:Reward"}],
        "advantages": {"use": "my_components:Estimator"},
        "losses": [{"use": "my_components:Policy"}],
        "observers": [{"use": "my_components:Watcher"}],
        "run": {"steps": 2, "out": str(out), "sample_every": 0, "checkpoint_every": 1},
    }
    return Recipe.from_dict(recipe_dict(**{**sections, **changes}))


def test_every_kind_hears_keeps_its_state_and_is_closed(
    recipe_dict: RecipeDict, tmp_path: Path, components: list[Any]
) -> None:
    run = tmp_path / "run"
    PPOTrainer(recipe_of(recipe_dict, run)).train()
    names = ("Reward", "Estimator", "Policy", "Watcher")
    assert {name for name, what, *_ in components if what == "end"} == set(names)
    components.clear()
    PPOTrainer(Recipe.load(run / "recipe.yaml", ["run.steps=3"]), resume=run).train()
    closed = {name: state for name, what, *state in components if what == "close"}
    assert closed == {name: [3.0, dict.fromkeys((1, 2, 3), (8, name))] for name in names}


def test_within_a_block_they_stay_open(
    recipe_dict: RecipeDict, tmp_path: Path, components: list[Any]
) -> None:
    with PPOTrainer(recipe_of(recipe_dict, tmp_path / "run")) as trainer:
        trainer.train()
        assert not [what for _, what, *_ in components if what == "close"]
    assert len([what for _, what, *_ in components if what == "close"]) == 4


def test_an_observer_that_fails_is_warned_of_once(
    recipe_dict: RecipeDict, tmp_path: Path, components: list[Any]
) -> None:
    observers = [{"use": "my_components:Fails"}]
    with pytest.warns(
        PpokitWarning, match=r"observer 'Fails' .*on_step failed: ValueError: broken"
    ) as message:
        PPOTrainer(recipe_of(recipe_dict, tmp_path / "run", observers=observers)).train()
    assert len([w for w in message if issubclass(w.category, PpokitWarning)]) == 1
    assert [line["step"] for line in metrics_of(tmp_path / "run")] == [1, 2]


@pytest.mark.parametrize(
    ("section", "message", "closed"),
    [
        (
            {"observers": [{"use": "my_components:Fails", "on_error": "stop"}]},
            r"observer 'Fails' \(plugin my_components:Fails, .*; .*observers\[0\]\.use.*\): on_step failed",
            4,
        ),
        (
            {"losses": [{"use": "my_components:Exits"}]},
            r"loss 'Exits'.*token_losses failed: SystemExit: 0",
            4,
        ),
        (
            {"observers": [{"use": "my_components:ExitsAtBuild"}]},
            r"observer 'ExitsAtBuild'.*SystemExit: 0",
            3,
        ),
        (
            {"rewards": [{"use": "my_components:Reward"}, {"use": "my_components:NoReward"}]},
            r"reward 'NoReward'.*build failed: ValueError: no file",
            1,
        ),
    ],
    ids=["observer", "exit", "exit at build", "second reward"],
)
def test_a_failure_names_the_component_and_closes_all(
    recipe_dict: RecipeDict,
    tmp_path: Path,
    components: list[Any],
    section: dict[str, Any],
    message: str,
    closed: int,
) -> None:
    with pytest.raises(PluginError, match=message):
        PPOTrainer(recipe_of(recipe_dict, tmp_path / "run", **section)).train()
    assert len([what for _, what, *_ in components if what == "close"]) == closed
    assert all(error for _, what, error, *_ in components if what == "end")


def test_a_state_that_cannot_be_held_later_loses_no_weights(
    recipe_dict: RecipeDict, tmp_path: Path, components: list[Any]
) -> None:
    observers = [{"use": "my_components:Unsaved"}]
    recipe = recipe_of(recipe_dict, tmp_path / "run", observers=observers)
    with pytest.raises(PluginError, match=r"observer 'Unsaved'.*state_dict\(\) has a builtins\.set"):
        PPOTrainer(recipe).train()
    assert (tmp_path / "run" / "policy" / "adapter_model.safetensors").is_file()
    state = json.loads((tmp_path / "run" / "checkpoints" / "step-000001" / "state.json").read_text())
    assert state["step"] == 1


@pytest.mark.parametrize(
    "section",
    [
        {"rewards": [{"use": "my_components:Forks"}]},
        {"observers": [{"use": "my_components:ForksAndFails"}]},
    ],
    ids=["reward", "observer"],
)
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_that_comes_back_is_ended(
    recipe_dict: RecipeDict, tmp_path: Path, components: list[Any], section: dict[str, Any]
) -> None:
    PPOTrainer(recipe_of(recipe_dict, tmp_path / "run", **section)).train()
    assert [line["step"] for line in metrics_of(tmp_path / "run")] == [1, 2]
