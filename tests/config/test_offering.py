"""Decorators: a function or a class is a component of its module, without a hook."""

from __future__ import annotations

import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from ppokit.config import entries
from ppokit.config.registry import PluginRegistry
from ppokit.errors import PluginError
from ppokit.plugin import Example
from ppokit.testing import rollout_of

MODULE = """
from ppokit.plugin import Example, Options, hookimpl, loss, reward

@reward
def brief(responses, limit: int = 80):
    return [float(len(text) <= limit) for text in responses]

@reward(name="kind-words", needs={"values"}, examples=[Example(("please",))], waivers={"time": "slow"})
class Kind(Options):
    strength: float = 1.0

    def score(self, rollout): ...

@loss(needs={"new_logprobs"})
class Plain:
    def token_losses(self, inputs): ...
"""


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PluginRegistry:
    (tmp_path / "decorated_things.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "decorated_things", raising=False)
    names = ("rewards.brief", "rewards.kind-words", "losses.Plain", "losses.brief", "rewards.brif")
    own = [EntryPoint(name, "decorated_things", "ppokit") for name in names]
    return PluginRegistry(entry_points=[*entries.installed(), *own])


def test_a_function_and_one_line(registry: PluginRegistry) -> None:
    component, label = registry.component("rewards", "brief")
    assert label == "decorated_things, unknown"
    assert component.name == "brief"
    built = component.build(component.options(limit=3), None)  # type: ignore[arg-type]
    assert built.score(rollout_of(["one", "three"])).scores.tolist() == [1.0, 0.0]


def test_a_class_says_what_it_needs(registry: PluginRegistry) -> None:
    component, _ = registry.component("rewards", "kind-words")
    assert component.name == "kind-words"
    assert component.needs == {"values"}
    assert component.examples == (Example(("please",)),)
    assert component.waivers == {"time": "slow"}
    assert component.options(strength=2.0).strength == 2.0  # type: ignore[attr-defined]
    assert registry.component("losses", "Plain")[0].needs == {"new_logprobs"}


@pytest.mark.parametrize(("kind", "name"), [("losses", "brief"), ("rewards", "brif")])
def test_another_kind_or_name_is_not_there(registry: PluginRegistry, kind: str, name: str) -> None:
    with pytest.raises(PluginError, match="has no hook"):
        registry.component(kind, name)
