"""`plugins:` in a recipe: what must be installed, and whose components it may name."""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import pytest

import fake_plugins
from ppokit.config import entries
from ppokit.config.recipe import Recipe, load_rewards
from ppokit.config.registry import PluginRegistry
from ppokit.errors import RecipeError
from ppokit.run.provenance import plugin_files

REWARD = (
    "from ppokit.plugin import reward\n\n@reward\ndef kind(responses):\n    return [1.0 for _ in responses]\n"
)


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PluginRegistry:
    """With a distribution `acme-kind` 1.5, which offers `kind`, beside ppokit's own."""
    site = tmp_path / "site"
    fake_plugins.distribution(site, "acme-kind", {"rewards.kind": "acme_kind"}, {"acme_kind": REWARD})
    (tmp_path / "prompts.jsonl").write_text('{"prompt": "a"}\n')
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(site))
    monkeypatch.delitem(sys.modules, "acme_kind", raising=False)
    return PluginRegistry(entry_points=entries.installed())


def load(registry: PluginRegistry, use: str = "kind", more: Any = None, **plugins: Any) -> Recipe:
    return Recipe.from_dict(
        {
            "plugins": plugins,
            "model": {"name": "some/model"},
            "prompts": {"path": "prompts.jsonl"},
            "rewards": [{"use": use, **(more or {})}],
            "advantages": {"use": "mean_baseline"},
            "losses": [{"use": "ppo_clip"}],
            "run": {"steps": 1, "out": "runs/x"},
        },
        registry,
    )


@pytest.mark.parametrize(
    ("requirement", "message"),
    [
        ("acme-kind>=2", "acme-kind 1.5 is installed; expected acme-kind>=2: pip install 'acme-kind>=2'"),
        ("acme-judge", "acme-judge is not installed; expected acme-judge: pip install 'acme-judge'"),
        ("acme kind", "'acme kind' is no requirement; expected a distribution and its versions"),
    ],
)
def test_what_is_required_must_be_there(registry: PluginRegistry, requirement: str, message: str) -> None:
    with pytest.raises(RecipeError) as caught:
        load(registry, require=["Acme_Kind>=1.2,<2", requirement])
    (problem,) = caught.value.problems
    assert problem.key == "plugins.require[1]"
    assert message in problem.message


def test_who_is_not_named_is_not_imported(registry: PluginRegistry) -> None:
    with pytest.raises(RecipeError, match=r"'kind' comes from acme-kind, which plugins.only does not name"):
        load(registry, only=["acme-judge"])
    with pytest.raises(RecipeError, match=r"'acme_kind:kind' comes from acme_kind, which plugins.only"):
        load(registry, "acme_kind:kind", only=[])
    assert "acme_kind" not in sys.modules


@pytest.mark.parametrize("section", [{"only": "acme-judge"}, {"only": [], "requires": ["acme"]}, None])
@pytest.mark.parametrize(
    "reward", [{"use": "kind"}, {"use": "acme_kind:kind"}, {"use": "python", "function": "acme_kind:kind"}]
)
def test_nobody_is_imported_while_it_is_not_known_who_may_be(
    registry: PluginRegistry, section: Any, reward: dict[str, Any], tmp_path: Path
) -> None:
    """By a whole recipe, and by the rewards alone; ppokit's own components are checked as ever."""
    recipe = {"plugins": section, "rewards": [reward, {"use": "length", "target": -1}]}
    (tmp_path / "rewards.yaml").write_text(json.dumps(recipe))
    for load_recipe in (Recipe.load, load_rewards):
        with pytest.raises(RecipeError) as caught:
            load_recipe(tmp_path / "rewards.yaml", registry=registry)
        messages = "\n".join(map(str, caught.value.problems))
        assert "acme" in messages
        assert "is not imported while the section plugins has a mistake" in messages
        assert "rewards[1].target: got -1" in messages
    assert "acme_kind" not in sys.modules


@pytest.mark.parametrize("use", ["kind", "kind@acme-kind", "acme_kind:kind"])
def test_who_is_named_is_used(registry: PluginRegistry, use: str) -> None:
    recipe = load(registry, use, only=["Acme.Kind", "acme_kind"], require=["acme-kind~=1.5"])
    assert recipe.rewards[0].component.name == "kind"
    assert Recipe.from_dict(recipe.resolved(), registry).settings == recipe.settings


METRIC = {"use": "metric", "reference": "prompt"}


@pytest.mark.parametrize(
    ("reward", "name", "only"),
    [
        ({"use": "python", "function": "acme_kind:kind"}, "acme_kind", "acme_kind"),
        ({"use": "python", "function": "acme_kind.kind"}, "acme_kind", "Acme-Kind"),
        ({"use": "python", "function": "acme.inner.module:kind"}, "acme.inner.module", "acme"),
        ({**METRIC, "metric": "package:acme-kind/scores"}, "acme-kind", "acme-kind"),
        ({**METRIC, "metric": "./scores"}, "./scores", "./scores"),
        ({**METRIC, "metric": "someone/scores"}, "someone/scores", "someone/scores"),
    ],
)
def test_code_that_options_name_is_theirs_too(
    registry: PluginRegistry, tmp_path: Path, reward: dict[str, Any], name: str, only: str
) -> None:
    """Of a function, and of a metric: not imported before it is known to be named."""
    message = problems(registry, reward, only=["acm"])
    assert f"rewards[0]: its options name code of {name}, which plugins.only does not" in message
    assert not {"acme_kind", "acme"} & set(sys.modules)
    assert "plugins.only" not in problems(registry, reward, only=[only]), "it may not be there, though"


def test_what_is_ppokits_own_needs_no_name(registry: PluginRegistry) -> None:
    assert "plugins.only" not in problems(registry, {**METRIC, "metric": "rouge"}, only=[])


def problems(registry: PluginRegistry, reward: dict[str, Any], **plugins: Any) -> str:
    try:
        load(
            registry, reward["use"], {key: value for key, value in reward.items() if key != "use"}, **plugins
        )
    except RecipeError as error:
        return str(error)
    return ""


def test_provenance_has_the_hash_of_what_is_no_package(
    registry: PluginRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A module within a namespace, a function's module, a metric's script."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    for file in (
        "space/inner/__init__.py",
        "space/inner/kind.py",
        "space/alone.py",
        "mine.py",
        "scores/scores.py",
    ):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_text(REWARD)
    for use, more, expected in (
        ("space.inner.kind:kind", {}, {"space.inner": {"__init__.py", "kind.py"}}),
        ("space.alone:kind", {}, {"space.alone": {"alone.py"}}),
        ("python", {"function": "mine:kind"}, {"ppokit_rewards": None, "mine": {"mine.py"}}),
    ):
        reward = load(registry, use, more).rewards[0]
        files = plugin_files([reward.plugin], reward.imports)
        assert set(files) == set(expected)
        assert all(names is None or set(files[top]) == names for top, names in expected.items())
    component, _ = registry.component("rewards", "metric")
    assert component.imports is not None
    options = component.options.model_validate({"metric": "./scores", "reference": "prompt"})
    files = plugin_files([], component.imports(options))
    digest = hashlib.sha256(REWARD.encode()).hexdigest()
    assert files == {"./scores": {"scores.py": digest}}
    for module in ("space", "space.inner", "space.inner.kind", "space.alone", "mine"):
        sys.modules.pop(module, None)


def test_provenance_has_the_hash_of_each_file(registry: PluginRegistry, tmp_path: Path) -> None:
    recipe = load(registry)
    files = plugin_files(selected.plugin for selected in recipe.selected)
    assert set(files) == {"acme_kind", "ppokit_advantages", "ppokit_losses", "ppokit_rollouts"}
    assert set(files["acme_kind"]) == {"acme_kind.py"}
    assert {"ppo_clip.py", "ratios.py"} <= set(files["ppokit_losses"])
    before = files["acme_kind"]["acme_kind.py"]
    (tmp_path / "site" / "acme_kind.py").write_text(REWARD.replace("1.0", "2.0"))
    assert plugin_files(["acme_kind, acme-kind 1.5"])["acme_kind"]["acme_kind.py"] != before


def test_provenance_has_what_else_the_distribution_installed(
    registry: PluginRegistry, tmp_path: Path
) -> None:
    site = tmp_path / "site"
    (site / "acme_tools").mkdir()
    for file in ("acme_words.py", "acme_tools/lists.py"):
        (site / file).write_text(f"name = {file!r}")
    names = ["acme_kind.py", "acme_words.py", "acme_tools/lists.py", "acme_tools/a.txt", "gone.py", "../x.py"]
    (site / "acme_kind-1.5.dist-info" / "RECORD").write_text("".join(f"{name},,\n" for name in names))
    files = plugin_files([load(registry).rewards[0].plugin])
    assert {package: set(known) for package, known in files.items()} == {
        "acme_kind": {"acme_kind.py"},
        "acme_words": {"acme_words.py"},
        "acme_tools": {"lists.py"},
    }
    assert files["acme_words"]["acme_words.py"] == hashlib.sha256(b"name = 'acme_words.py'").hexdigest()
