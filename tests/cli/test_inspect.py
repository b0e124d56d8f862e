"""validate, schema, and how errors look."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

import fake_plugins
import ppokit
from ppokit.cli import Command, app
from ppokit.cli.options import Debug
from ppokit.errors import DataError, Interrupted, PpokitWarning

RECIPE = """\
model: {name: some/model}
prompts: {path: owner/prompts}
rewards: [{use: good}]
losses: [{use: clip}]
run: {steps: 3, out: runs/x}
"""
HEAVY = ("torch", "transformers", "datasets", "accelerate")

runner = CliRunner()


@pytest.fixture(autouse=True)
def plugins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("r.yaml").write_text(RECIPE)
    monkeypatch.setattr("ppokit.config.entries.installed", fake_plugins.entry_points)


def run(*args: str) -> tuple[int, str, str]:
    result = runner.invoke(app, list(args))
    return result.exit_code, result.stdout, result.stderr


def test_validate() -> None:
    assert run("validate", "r.yaml", "rewards.0.weight=0.5") == (
        0,
        "r.yaml: OK\n"
        "  model      some/model, all weights, value function policy_trunk\n"
        "  rewards    good x 0.5\n"
        "  advantages gae\n"
        "  losses     clip x 1\n"
        "  run        3 steps of 16 prompts x 4 responses, into runs/x\n",
        "",
    )


def test_validate_resolved_prints_a_recipe() -> None:
    code, out, _ = run("validate", "r.yaml", "run.seed=5", "--resolved")
    assert code == 0
    Path("again.yaml").write_text(out)
    assert run("validate", "again.yaml", "--resolved") == (0, out, "")
    assert "  seed: 5\n" in out


def test_validate_tells_problems() -> None:
    Path("r.yaml").write_text(RECIPE.replace("steps: 3", "steps: x").replace("good", "god"))
    assert run("validate", "r.yaml") == (
        2,
        "",
        "ppokit: error: r.yaml: 2 problems\n"
        "  line 3, rewards[0].use: no rewards plugin 'god' is installed (installed: good, other); "
        "did you mean 'good'?\n"
        "  line 5, run.steps: got 'x' (text); expected a whole number\n",
    )


def test_debug_shows_the_traceback() -> None:
    code, _, err = run("validate", "none.yaml", "--debug")
    assert code == 2
    assert err.startswith("Traceback (most recent call last):")
    assert err.endswith("ppokit: error: none.yaml: 1 problem\n  cannot be read: No such file or directory\n")


def test_validate_counts_held_out_prompts_that_are_trained_on() -> None:
    """Of the first rows, as many as the evaluation takes; and it loads no model to say so."""
    Path("train.jsonl").write_text('{"prompt": "Tell me a joke"}\n{"prompt": "b"}\n{"prompt": "c"}\n')
    Path("held.jsonl").write_text('{"prompt": "x"}\n{"prompt": "tell me  a JOKE"}\n{"prompt": "c"}\n')
    section = "evaluation: {prompts: {path: held.jsonl, limit: 2}, evaluators: [{use: measure}]}\n"
    Path("r.yaml").write_text(RECIPE.replace("owner/prompts", "train.jsonl") + section)
    with pytest.warns(PpokitWarning, match=r"1 of 2 held-out prompts .* row 2, 'tell me  a JOKE'$"):
        code, out, _ = run("validate", "r.yaml")
    assert (code, out.splitlines()[0]) == (0, "r.yaml: OK")


@pytest.mark.parametrize("command", [("validate", "r.yaml"), ("schema",), ("plugins", "list")])
def test_disable_plugin_is_repeatable_and_checked(command: tuple[str, ...]) -> None:
    code, _, err = run(*command, "--disable-plugin", "other", "--disable-plugin", "gone")
    assert code == 2
    assert err.startswith("ppokit: error: --disable-plugin gone: nothing installed has this name")


def test_a_disabled_plugin_is_refused() -> None:
    code, _, err = run("validate", "r.yaml", "--disable-plugin", "rewards.good")
    assert code == 2
    assert "rewards 'good' (fake_plugins, unknown) is disabled by --disable-plugin" in err


def test_schema_is_json() -> None:
    code, out, _ = run("schema")
    assert code == 0
    assert json.loads(out)["$schema"] == "https://json-schema.org/draft/2020-12/schema"


def test_version() -> None:
    assert run("--version") == (0, f"ppokit {ppokit.__version__}\n", "")


def test_help_is_plain() -> None:
    code, out, _ = run("--help")
    assert code == 0
    assert out.isascii()
    for command in ("train", "generate", "validate", "schema", "plugins"):
        assert f"\n  {command} " in out


def failing(raised: Callable[[], BaseException]) -> typer.Typer:
    broken = typer.Typer(pretty_exceptions_enable=False)

    @broken.command(cls=Command)
    def fail(debug: Debug = False) -> None:
        raise raised()

    return broken


@pytest.mark.parametrize(
    ("raised", "code", "err"),
    [
        (lambda: DataError("no data."), 2, "ppokit: error: no data.\n"),
        (lambda: Interrupted(15), 143, "ppokit: stopped by SIGTERM\n"),
        (
            lambda: KeyError("x"),
            1,
            "ppokit: error: a bug in ppokit: KeyError: 'x' (--debug shows the traceback)\n",
        ),
        (
            lambda: SystemExit(0),
            1,
            "ppokit: error: a bug in ppokit: SystemExit: 0 (--debug shows the traceback)\n",
        ),
        (lambda: typer.Exit(7), 7, ""),
    ],
)
def test_an_error_becomes_one_paragraph_and_a_code(
    raised: Callable[[], BaseException], code: int, err: str
) -> None:
    result = runner.invoke(failing(raised), [])
    assert (result.exit_code, result.stderr) == (code, err)


def test_a_bug_shows_its_traceback_with_debug() -> None:
    result = runner.invoke(failing(lambda: KeyError("x")), ["--debug"])
    assert result.exit_code == 1
    assert "Traceback" in result.stderr
    assert result.stderr.endswith("ppokit: error: a bug in ppokit: KeyError: 'x'\n")


@pytest.mark.parametrize(
    "args", [["--help"], ["plugins", "list"], ["validate", "r.yaml"], ["validate", "none.yaml"], None]
)
def test_nothing_heavy_is_imported(args: list[str] | None, tmp_path: Path) -> None:
    here = Path(fake_plugins.__file__).parent
    site = tmp_path / "site"
    fake_plugins.distribution(
        site, "fakes", {f"{k}.{n}": "fake_plugins" for k, ns in fake_plugins.KINDS.items() for n in ns}, {}
    )
    call = f"from ppokit.cli import app; app({args!r}, standalone_mode=False)" if args else "import ppokit"
    # The environment's own plugins of the same names would make these ambiguous.
    program = (
        "import sys, importlib.metadata as m, ppokit\n"
        f"sys.path.insert(0, {str(here)!r})\n"
        f"points = [p for d in m.distributions(path=[{str(site)!r}]) for p in d.entry_points]\n"
        "if len(sys.argv) > 1:\n    from ppokit.config import entries\n"
        "    entries.installed = lambda: points\n"
        f"try:\n    {call}\nexcept BaseException as e:\n    print(repr(e), file=sys.stderr)\n"
        f"print('heavy:', [name for name in {HEAVY!r} if name in sys.modules])"
    )
    command = [sys.executable, "-c", program, *(["registry"] if args else [])]
    completed = subprocess.run(command, capture_output=True, text=True, env=dict(os.environ))
    assert completed.stdout.endswith("heavy: []\n"), completed.stderr
    if args == ["validate", "r.yaml"]:
        assert completed.stdout.startswith("r.yaml: OK")


def test_as_a_module() -> None:
    completed = subprocess.run([sys.executable, "-m", "ppokit", "--version"], capture_output=True, text=True)
    assert (completed.returncode, completed.stdout) == (0, f"ppokit {ppokit.__version__}\n"), completed.stderr
