"""The wheel holds everything, and works where nothing else of the project is."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

from runs import REPOSITORY

pytestmark = pytest.mark.slow

PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
PACKAGES = (
    "ppokit",
    "ppokit_rewards",
    "ppokit_advantages",
    "ppokit_losses",
    "ppokit_rollouts",
    "ppokit_evaluators",
    "ppokit_observers",
    "ppokit_metrics",
)


def call(*command: object, env: dict[str, str] | None = None, cwd: Path | None = None) -> str:
    completed = subprocess.run(
        [sys.executable, *map(str, command)], capture_output=True, text=True, env=env, cwd=cwd, check=False
    )
    assert completed.returncode == 0, completed.stdout + completed.stderr
    return completed.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    for module in ("pip", "hatchling"):
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"{module} is not installed")
    folder = tmp_path_factory.mktemp("wheel")
    options = ("--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check", "-q")
    call("-m", "pip", "wheel", *options, "-w", folder, REPOSITORY)
    (result,) = folder.glob("*.whl")
    return result


def test_it_holds_every_module(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        (points,) = [archive.read(name).decode() for name in names if name.endswith("entry_points.txt")]
    for package in PACKAGES:
        root = REPOSITORY if package == "ppokit" else REPOSITORY / "plugins"
        sources = {str(path.relative_to(root)) for path in (root / package).rglob("*.py")}
        assert sources <= names
        assert f"{package}/py.typed" in names
    for folder in ("cli/templates", "report/templates", "report/static"):
        files = [path for path in (REPOSITORY / "ppokit" / folder).rglob("*") if path.is_file()]
        assert files
        assert {str(path.relative_to(REPOSITORY)) for path in files} <= names
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert {name.split("/")[0] for name in names if ".dist-info/" not in name} == set(PACKAGES)
    for name, module in PROJECT["entry-points"]["ppokit"].items():
        assert f"{name} = {module}" in points
    assert "ppokit = ppokit.cli:main" in points


def test_it_works_elsewhere(wheel: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    call("-m", "pip", "install", "--no-deps", "--no-index", "-q", "--target", site, wheel)
    env = {**os.environ, "PYTHONPATH": str(site), "PYTHONDONTWRITEBYTECODE": "1"}
    where = call(
        "-c",
        "import ppokit, ppokit_rewards; print(ppokit.__file__, ppokit_rewards.__file__)",
        env=env,
        cwd=tmp_path,
    )
    assert all(path.startswith(str(site)) for path in where.split())
    plugins = json.loads(call("-m", "ppokit", "plugins", "list", "--json", env=env, cwd=tmp_path))
    listed = {f"{entry['kind']}.{entry['name']}": entry for entry in plugins}
    for name, module in PROJECT["entry-points"]["ppokit"].items():
        assert listed[name]["module"] == module
        assert listed[name]["state"] == "not imported yet", listed[name]
        assert listed[name]["summary"]
