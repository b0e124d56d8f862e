"""`ppokit plugins new`: what it generates is in order, for every kind."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib import import_module
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from ppokit import Recipe
from ppokit.cli import app
from ppokit.cli.new_plugin import KINDS, create
from ppokit.config import entries
from ppokit.config.registry import PluginRegistry
from ppokit.errors import DataError
from ppokit.testing import find, run_checks

BIN = Path(sys.executable).parent
runner = CliRunner()


@pytest.fixture
def tidy() -> Iterator[None]:
    """What a generated folder leaves in this process."""
    path, modules = list(sys.path), set(sys.modules)
    yield
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        if name.startswith(("ppokit_", "test_")):
            del sys.modules[name]


def registry_with(folder: Path) -> PluginRegistry:
    """As if the folder were installed."""
    project = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
    own = [EntryPoint(name, value, "ppokit") for name, value in project["entry-points"]["ppokit"].items()]
    return PluginRegistry(entry_points=[*entries.installed(), *own])


@pytest.mark.parametrize("kind", KINDS)
def test_it_conforms_and_is_tidy(
    kind: str, tmp_path: Path, tidy: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = create(f"fresh-{kind}", kind, tmp_path)
    monkeypatch.chdir(folder)
    assert not [path for path in folder.rglob("*") if "cookiecutter" in path.name]
    assert not [path for path in folder.rglob("*.*") if path.is_file() and "cookiecutter" in path.read_text()]
    for command in (("check",), ("format", "--check")):
        completed = subprocess.run([BIN / "ruff", *command, "."], cwd=folder, capture_output=True, text=True)
        assert completed.returncode == 0, completed.stdout
    (subject,) = find(folder)
    report = run_checks(subject)
    assert [(result.check, result.detail) for result in report.having("failed")] == []
    # What repeats prompts draws nothing.
    assert [result.check for result in report.having("waived")] == (["draws"] if kind == "rollout" else [])
    monkeypatch.syspath_prepend(str(folder / "tests"))
    test = import_module(f"test_fresh_{kind}")
    for name, function in vars(test).items():
        if name.startswith("test_") and not hasattr(function, "pytestmark"):
            function()
    recipe = Recipe.load("recipe.yaml", registry=registry_with(folder))
    assert f"fresh_{kind}" in {selected.component.name for selected in recipe.selected}
    workflow = yaml.safe_load((folder / ".github" / "workflows" / "ci.yml").read_text())
    assert workflow["jobs"]["publish"]["permissions"] == {"id-token": "write"}


def test_the_command_says_what_comes_next(tmp_path: Path) -> None:
    result = runner.invoke(app, ["plugins", "new", "Kind-Words", "--out", str(tmp_path)])
    assert result.exit_code == 0, result.output
    folder = tmp_path / "ppokit-kind-words"
    assert result.stdout.startswith(f"{folder} has a reward, ppokit_kind_words.py, and its tests. Next:\n")
    assert "class KindWords(Options)" in (folder / "ppokit_kind_words.py").read_text()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("length", "rewards 'length' is ppokit's own; choose another name"),
        ("1st", "cannot be a component's name; expected at most 40 letters"),
        ("a b", "cannot be a component's name"),
        ("x" * 41, "cannot be a component's name"),
        ("there", "is there already; choose another name"),
    ],
)
def test_names_that_cannot_be(name: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "ppokit-there").mkdir()
    with pytest.raises(DataError, match=message):
        create(name, "reward", tmp_path)


@pytest.mark.thorough
def test_each_passes_mypy_strict_and_its_own_tests(tmp_path: Path) -> None:
    folders = [create(f"strict-{kind}", kind, tmp_path) for kind in KINDS]
    modules = [path for folder in folders for path in (*folder.glob("*.py"), *folder.glob("tests/*.py"))]
    paths = ":".join(map(str, folders))
    checked = subprocess.run(
        [BIN / "mypy", "--strict", "--config-file", "", *modules],
        cwd=tmp_path,
        env={"MYPYPATH": paths, "PATH": "/usr/bin"},
        capture_output=True,
        text=True,
    )
    assert checked.returncode == 0, checked.stdout
    for folder in folders:
        tested = subprocess.run(
            [sys.executable, "-m", "pytest", "-q"], cwd=folder, capture_output=True, text=True
        )
        assert tested.returncode == 0, tested.stdout
