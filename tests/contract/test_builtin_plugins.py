"""Every built-in plugin keeps what the registry and `ppokit plugins list` count on."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from importlib import import_module
from pathlib import Path
from typing import get_args

import pytest

from ppokit.kinds import HOOK_BY_KIND
from ppokit.plugin.protocols import Component, Need, Options

PYPROJECT = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))
ENTRY_POINTS: dict[str, str] = PYPROJECT["project"]["entry-points"]["ppokit"]
HEAVY = ("torch", "transformers", "datasets", "accelerate", "peft", "vaderSentiment")

every_plugin = pytest.mark.parametrize(("name", "module"), ENTRY_POINTS.items())


def component(name: str, module: str) -> Component:
    kind, _, use = name.partition(".")
    offered = getattr(import_module(module), HOOK_BY_KIND[kind])()
    (result,) = [one for one in offered if one.name == use]
    return result


def test_importing_them_imports_nothing_heavy() -> None:
    code = (
        "import importlib, json, sys\n"
        f"for module in {sorted(ENTRY_POINTS.values())!r}: importlib.import_module(module)\n"
        f"print(json.dumps([name for name in {HEAVY!r} if name in sys.modules]))"
    )
    completed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert completed.returncode == 0, completed.stderr
    assert json.loads(completed.stdout) == []


@every_plugin
def test_offers_exactly_the_component_of_its_entry_point(name, module) -> None:
    kind, _, use = name.partition(".")
    plugin = import_module(module)
    hooks = [hook for hook in HOOK_BY_KIND.values() if hasattr(plugin, hook)]
    assert hooks == [HOOK_BY_KIND[kind]]
    assert hasattr(getattr(plugin, hooks[0]), "ppokit_impl"), "not marked with @hookimpl"
    assert [one.name for one in getattr(plugin, hooks[0])()] == [use]


@every_plugin
def test_has_a_summary(name, module) -> None:
    doc = import_module(module).__doc__
    assert doc
    first = doc.splitlines()[0]
    assert first.endswith(".")
    assert 20 <= len(first) <= 110


@every_plugin
def test_describes_every_option_and_refuses_unknown_ones(name, module) -> None:
    options = component(name, module).options
    assert issubclass(options, Options)
    assert options.model_config["extra"] == "forbid"
    undescribed = [key for key, field in options.model_fields.items() if not field.description]
    assert undescribed == []
    options.model_json_schema()  # for `ppokit schema`


@every_plugin
def test_needs_only_what_the_core_can_compute(name, module) -> None:
    needs = component(name, module).needs
    assert isinstance(needs, frozenset)
    assert needs <= set(get_args(Need))


@every_plugin
def test_a_function_is_named_like_the_algorithm(name, module) -> None:
    kind, _, use = name.partition(".")
    if kind in ("advantages", "losses"):
        assert callable(getattr(import_module(module), use))


@pytest.mark.parametrize("package", sorted({module.partition(".")[0] for module in ENTRY_POINTS.values()}))
def test_each_package_says_what_it_holds(package) -> None:
    assert import_module(package).__doc__
