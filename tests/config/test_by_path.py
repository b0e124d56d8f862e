"""`use: module:attribute`: one file beside the recipe, for every kind."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from ppokit.config.json_schema import recipe_schema
from ppokit.config.recipe import Recipe
from ppokit.config.registry import PluginRegistry
from ppokit.errors import PluginError, RecipeError
from ppokit.plugin import BuildContext
from rollouts import make_rollout

CONTEXT = BuildContext(torch.device("cpu"), torch.float32, 0)
SOURCE = """
from ppokit.plugin import Advantages, Component, LossOutput, Options, hookimpl

def brief(responses, limit: int = 4, topic=None):
    return [float(len(text) <= limit) for text in responses]

def needy(responses, answer):
    return [0.0 for _ in responses]

def plain(rollout, rewards, gamma=0.5):
    return gamma

def moved(inputs):
    return inputs.new_logprobs
moved.needs = {"new_logprobs"}

class Engine:
    class Options(Options):
        max_new_tokens: int = 8
    def __init__(self, options, context):
        self.max_new_tokens = options.max_new_tokens
    def generate(self, policy, request):
        return None

class Scaled(Options):
    needs = {"values"}
    factor: float = 2.0
    shift: float = 0.0
    def estimate(self, rollout, rewards):
        return self.factor * rewards + self.shift

class Watcher:
    pass

class Wants:
    def __init__(self, one):
        pass
    def estimate(self, rollout, rewards):
        pass

ready = Component("ready_made", lambda options, context: "built", needs=frozenset({"values"}))
number = 3
"""


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[PluginRegistry]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "one_file.py").write_text(SOURCE)
    (tmp_path / "prompts.jsonl").write_text('{"prompt": "a", "topic": "t"}\n')
    importlib.invalidate_caches()
    yield PluginRegistry()
    sys.modules.pop("one_file", None)


def test_a_component_is_used_as_it_is(registry: PluginRegistry, tmp_path: Path) -> None:
    component, label = registry.component("advantages", "one_file:ready")
    assert (component.name, component.needs) == ("ready_made", {"values"})
    assert label == f"one_file:ready, {tmp_path / 'one_file.py'}"


def test_a_class_of_options_is_its_own_object(registry: PluginRegistry) -> None:
    component, _ = registry.component("advantages", "one_file:Scaled")
    assert component.needs == {"values"}
    built = component.build(component.options(factor=3.0, shift=1.0), CONTEXT)
    assert built.estimate(None, 2.0) == 7.0


def test_a_function_is_its_kinds_method_and_its_defaults_are_options(registry: PluginRegistry) -> None:
    component, _ = registry.component("advantages", "one_file:plain")
    built = component.build(component.options(gamma=0.9), CONTEXT)
    assert built.estimate(None, None) == 0.9
    loss, _ = registry.component("losses", "one_file:moved")
    assert loss.needs == {"new_logprobs"}
    assert hasattr(loss.build(loss.options(), CONTEXT), "token_losses")


def test_a_function_of_texts_is_a_reward(registry: PluginRegistry) -> None:
    component, _ = registry.component("rewards", "one_file:brief")
    assert component.name == "brief"
    rollout = make_rollout([[1]] * 2, [[2], [3]])
    rollout.responses[:] = ["four", "more than four"]
    assert component.build(component.options(), CONTEXT).score(rollout).scores.tolist() == [1, 0]
    assert component.build(component.options(limit=99), CONTEXT).score(rollout).scores.tolist() == [1, 1]


def test_a_class_gets_its_options(registry: PluginRegistry) -> None:
    component, _ = registry.component("rollout", "one_file:Engine")
    assert component.build(component.options(max_new_tokens=3), CONTEXT).max_new_tokens == 3
    watcher, _ = registry.component("observers", "one_file:Watcher")
    assert type(watcher.build(watcher.options(), CONTEXT)).__name__ == "Watcher"


@pytest.mark.parametrize(
    ("kind", "use", "message"),
    [
        ("rewards", "one_file:nothing", "has no 'nothing'"),
        ("rewards", "nowhere:x", "there is no module 'nowhere', neither in"),
        ("rewards", "one_file:", "is no path; expected module:attribute"),
        (
            "rewards",
            "./one_file.py",
            "is a file's path; a file is named as a module and what stands in it: use: one_file:thing",
        ),
        (
            "rewards",
            "one_file.py:brief",
            "is a file's path; a file is named as a module and what stands in it: use: one_file:brief",
        ),
        (
            "losses",
            "lib/one_file.py:moved",
            "is a file's path; a file is named as a module and what stands in it: use: lib.one_file:moved",
        ),
        (
            "losses",
            "../one_file.py",
            "is a file's path; a file is named as a module and what stands in it: use: one_file:thing",
        ),
        (
            "rollout",
            "lib.one_file.engine",
            "is no plugin's name; what stands in a module is named behind a colon: use: lib.one_file:engine",
        ),
        ("rewards", "one_file:number", "is a int; expected a Component, a class or a function"),
        ("advantages", "one_file:Watcher", "is a class without the method 'estimate'"),
        (
            "advantages",
            "one_file:Wants",
            "whose constructor takes 1 arguments; expected two, options and context",
        ),
        ("observers", "one_file:brief", "is a function; expected a Component or a class"),
    ],
)
def test_what_cannot_be_used_is_named_with_its_file(
    registry: PluginRegistry, tmp_path: Path, kind: str, use: str, message: str
) -> None:
    with pytest.raises(PluginError) as caught:
        registry.component(kind, use)
    assert message in str(caught.value)
    assert use in str(caught.value)
    if use.startswith("one_file:") and use != "one_file:":
        assert str(tmp_path / "one_file.py") in str(caught.value)


def recipe(**sections: object) -> dict[str, object]:
    return {
        "model": {"name": "some/model"},
        "prompts": {"path": "prompts.jsonl"},
        "rewards": [{"use": "one_file:brief", "limit": 9}],
        "advantages": {"use": "one_file:plain"},
        "losses": [{"use": "one_file:moved"}],
        "run": {"steps": 1, "out": "run"},
        **sections,
    }


def test_a_recipe_holds_the_path_and_loads_again(registry: PluginRegistry) -> None:
    loaded = Recipe.from_dict(recipe(), registry)
    assert (
        loaded.resolved()["rewards"][0] | {"use": "one_file:brief", "limit": 9}
        == loaded.resolved()["rewards"][0]
    )
    assert [choice.name for choice in loaded.rewards] == ["brief"]
    assert Recipe.from_dict(loaded.resolved(), registry) == loaded


def test_options_are_checked_like_any_plugins(registry: PluginRegistry) -> None:
    with pytest.raises(RecipeError) as caught:
        Recipe.from_dict(
            recipe(
                rewards=[{"use": "one_file:brief", "limit": "ten", "limt": 3}, {"use": "one_file:needy"}],
            ),
            registry,
        )
    message = str(caught.value)
    assert "rewards[0].limit: got 'ten' (text); expected a whole number" in message
    assert "rewards[0].limt: unknown key 'limt'; did you mean 'limit'?" in message
    assert "rewards[1]: function 'one_file:needy' needs 'answer', which is neither a column" in message


def test_a_column_of_the_data_goes_before_a_default(registry: PluginRegistry) -> None:
    """`topic` has a default and is a column: the recipe that is written out must not clash with it."""
    loaded = Recipe.from_dict(recipe(), registry)
    assert Recipe.from_dict(loaded.resolved(), registry).rewards[0].options == loaded.rewards[0].options


def test_the_schema_lets_a_path_have_any_keys(registry: PluginRegistry) -> None:
    schema = recipe_schema(registry)
    branches = [
        schema["$defs"][one["$ref"].removeprefix("#/$defs/")]
        for one in schema["properties"]["rewards"]["items"]["oneOf"]
    ]
    (by_path,) = [one for one in branches if "pattern" in one["properties"]["use"]]
    assert by_path["additionalProperties"] is True
    assert "weight" in by_path["properties"]
