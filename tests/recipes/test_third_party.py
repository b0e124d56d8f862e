"""A distribution as `plugins new` makes it, from its wheel to a training, beside others that are broken.

In an environment of its own with ppokit's wheel; what ppokit depends on is taken from this one.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import time
import venv
import zipfile
from pathlib import Path

import pytest
import torch

from ppokit.cli.new_plugin import create
from runs import REPOSITORY

pytestmark = [pytest.mark.slow, pytest.mark.thorough]

HOOK = """
from ppokit.plugin import Component, Options, hookimpl

class Twin(Options):
    def score(self, rollout): ...

@hookimpl
def ppokit_reward_providers() -> list[Component]:
    return [Component({name!r}, options=Twin)]
"""
OTHERS = {
    # By distribution: the entry point's name, its module's source, and what the distribution requires.
    "acme-twin": ("kind_words", HOOK.format(name="kind_words"), "ppokit"),
    "acme-broken": ("broken", "raise OSError('no licence here')\n", "ppokit"),
    "acme-slow": ("slow", "import time\ntime.sleep(20)\n" + HOOK.format(name="slow"), "ppokit"),
    "acme-typo": ("typo", HOOK.format(name="typo").replace("providers", "provider"), "ppokit"),
    "acme-later": ("later", HOOK.format(name="later"), "ppokit>=99"),
}
WHEEL = "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n"


class Environment:
    """A virtual environment with wheels in it."""

    def __init__(self, folder: Path) -> None:
        self.python = folder / "bin" / "python"
        venv.create(folder, with_pip=False, symlinks=True)
        (site,) = folder.glob("lib/python*/site-packages")
        (site / "dependencies.pth").write_text(f"{Path(torch.__file__).parents[1]}\n")

    def install(self, *wheels: Path) -> None:
        options = ("--no-deps", "--no-index", "--disable-pip-version-check", "-q")
        pip = [sys.executable, "-m", "pip", "--python", self.python, "install", *options, *wheels]
        subprocess.run(list(map(str, pip)), check=True, capture_output=True, text=True)

    def ppokit(self, *arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
        env = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "COLUMNS": "200"}
        command = [str(self.python), "-m", "ppokit", *map(str, arguments)]
        return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True)


def build(source: Path, out: Path) -> Path:
    options = ("--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check", "-q")
    before = set(out.glob("*.whl"))
    subprocess.run([sys.executable, "-m", "pip", "wheel", *options, "-w", out, source], check=True)
    (wheel,) = set(out.glob("*.whl")) - before
    return wheel


def other_wheel(folder: Path, distribution: str) -> Path:
    name, source, requires = OTHERS[distribution]
    module = distribution.replace("-", "_")
    wheel = folder / f"{module}-1.5-py3-none-any.whl"
    info = f"{module}-1.5.dist-info"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(f"{module}.py", source)
        metadata = f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.5\nRequires-Dist: {requires}\n"
        archive.writestr(f"{info}/METADATA", metadata)
        archive.writestr(f"{info}/WHEEL", WHEEL)
        archive.writestr(f"{info}/entry_points.txt", f"[ppokit]\nrewards.{name} = {module}\n")
        archive.writestr(f"{info}/RECORD", "")
    return wheel


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """ppokit's wheel, that of a generated reward, and the folder that the reward came from."""
    for module in ("pip", "hatchling"):
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"{module} is not installed")
    folder = tmp_path_factory.mktemp("wheels")
    source = create("kind-words", "reward", folder)
    return build(REPOSITORY, folder), build(source, folder), source


@pytest.fixture(scope="module")
def environment(wheels: tuple[Path, Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Environment:
    made = Environment(tmp_path_factory.mktemp("environment") / "venv")
    made.install(*wheels[:2])
    return made


def small(source: Path, tiny_model: Path, out: Path) -> tuple[str, ...]:
    """The generated recipe with a small model."""
    return (
        str(source / "recipe.yaml"),
        f"model.name={tiny_model}",
        f"prompts.path={source / 'prompts.jsonl'}",
        "rollout.max_new_tokens=6",
        "run.steps=2",
        f"run.out={out}",
    )


def test_it_is_listed_checked_and_trained_with(
    environment: Environment, wheels: tuple[Path, Path, Path], tiny_model: Path, tmp_path: Path
) -> None:
    listed = json.loads(environment.ppokit("plugins", "list", "--json", cwd=tmp_path).stdout)
    (own,) = [entry for entry in listed if entry["name"] == "kind_words"]
    assert (own["distribution"], own["version"], own["builtin"]) == ("ppokit-kind-words", "0.1.0", False)
    assert own["state"] == "not imported yet"
    checked = environment.ppokit("plugins", "check", "kind_words", cwd=tmp_path)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    arguments = small(wheels[2], tiny_model, tmp_path / "run")
    trained = environment.ppokit("train", *arguments, cwd=tmp_path)
    assert trained.returncode == 0, trained.stderr
    provenance = json.loads((tmp_path / "run" / "provenance.json").read_text())
    assert provenance["plugins"]["rewards[0]"] == "ppokit_kind_words, ppokit-kind-words 0.1.0"
    assert set(provenance["plugin_files"]["ppokit_kind_words"]) == {"ppokit_kind_words.py"}


def test_beside_others_that_are_broken(
    environment: Environment, wheels: tuple[Path, Path, Path], tiny_model: Path, tmp_path: Path
) -> None:
    environment.install(*(other_wheel(tmp_path, distribution) for distribution in OTHERS))
    began = time.monotonic()
    listed = json.loads(environment.ppokit("plugins", "list", "--json", cwd=tmp_path).stdout)
    assert time.monotonic() - began < 15, "it imported the one that takes 20 s"
    states = {(entry["name"], entry["distribution"]): entry["state"] for entry in listed}
    assert states["kind_words", "ppokit-kind-words"] == states["kind_words", "acme-twin"] == "duplicate"
    assert {states[name, f"acme-{name}"] for name in ("broken", "slow", "typo", "later")} == {
        "not imported yet"
    }

    def validate(use: str) -> subprocess.CompletedProcess[str]:
        return environment.ppokit(
            "validate",
            *small(wheels[2], tiny_model, tmp_path / "x"),
            f"rewards.0={{use: {use}}}",
            cwd=tmp_path,
        )

    answers = {
        "kind_words": "name one in the recipe, by use: kind_words@acme-twin or kind_words@ppokit-kind-words",
        "broken": "cannot be imported: OSError: no licence here",
        "typo": "defines ppokit_reward_provider, which is no hook of ppokit; did you mean "
        "'ppokit_reward_providers'?",
        "later": "is built for ppokit>=99; this is ppokit",
    }
    for use, answer in answers.items():
        refused = validate(use)
        assert refused.returncode == 2
        assert answer in refused.stderr
    assert validate("kind_words@ppokit-kind-words").returncode == 0
    slow = environment.ppokit("plugins", "check", "slow", cwd=tmp_path)
    assert "Importing it took 2" in slow.stderr
