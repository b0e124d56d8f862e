"""plugins list and check, and what `validate` says of rewards by which an answer of nothing wins."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

import fake_plugins
from ppokit.cli import app
from ppokit.cli.sections import Section, show
from ppokit.config.registry import PluginRegistry
from ppokit.errors import PpokitWarning

SHORTER = """
from ppokit.plugin import Component, Example, Options, RewardOutput, hookimpl

class Shorter(Options):
    best: int = 0

    def score(self, rollout):
        print("no part of the report")
        return RewardOutput.from_values([-abs(len(text) - self.best) / 10 for text in rollout.responses])

@hookimpl
def ppokit_reward_providers():
    return [Component("shorter", options=Shorter, examples=[Example(("Yes.",), ("Yes, yes, yes.",))])]
"""
PYPROJECT = """
[project]
name = "acme"
[project.entry-points.ppokit]
"rewards.shorter" = "acme_shorter"
"""
RECIPE = """
model: {name: some/model}
prompts: {path: owner/prompts}
rewards: [{use: "acme_shorter:Shorter"}]
losses: [{use: ppo_clip}]
run: {steps: 3, out: runs/x}
"""

runner = CliRunner()


def run(*args: str) -> tuple[int, str, str]:
    result = runner.invoke(app, list(args))
    return result.exit_code, result.stdout, result.stderr


@pytest.fixture
def fakes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("ppokit.config.entries.installed", fake_plugins.entry_points)


@pytest.fixture
def acme(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A distribution's folder, not installed."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "acme_shorter", raising=False)
    (tmp_path / "acme_shorter.py").write_text(SHORTER)
    (tmp_path / "pyproject.toml").write_text(PYPROJECT)
    return tmp_path


def test_plugins_list_is_plain_when_piped(fakes: None) -> None:
    code, out, _ = run("plugins", "list", "--disable-plugin", "good")
    lines = out.splitlines()
    summary = (
        "A plugin of every kind, and distributions made of files, for tests of the registry and the recipe."
    )
    assert code == 0
    assert lines[0].split() == ["kind", "name", "from", "state", "summary"]
    assert lines[1] == f"advantages  gae           unknown  not imported yet  {summary}"
    assert [line.split()[:2] for line in lines[1:-2]] == sorted(line.split()[:2] for line in lines[1:-2])
    assert lines[-2] == "blocked by --disable-plugin good"
    assert lines[-1] == "Not ppokit's own: unknown. Who installs a plugin trusts its code."
    assert out.isascii()


def test_plugins_list_on_a_terminal_fits_80_columns(
    fakes: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from ppokit.cli import plugins

    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    plugins.list_plugins()
    out = re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out)
    assert max(map(len, out.splitlines())) <= 80
    assert "transformers" in out


@pytest.mark.parametrize("terminal", [True, False])
def test_a_table_shows_what_others_wrote_and_does_not_obey_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], terminal: bool
) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: terminal)
    show([Section("", ("name", "summary"), [("a", "x\x1b[2J\u202ey\r")], text_columns=2)])
    out = capsys.readouterr().out
    assert "x\N{REPLACEMENT CHARACTER}[2J\N{REPLACEMENT CHARACTER}y" in out
    assert "\x1b[2J" not in out


def test_plugins_list_as_json(fakes: None) -> None:
    entries = json.loads(run("plugins", "list", "--json")[1])
    assert entries[0] | {"summary": ""} == {
        "kind": "advantages",
        "name": "gae",
        "module": "fake_plugins",
        "distribution": "unknown",
        "version": "",
        "summary": "",
        "state": "not imported yet",
        "reason": "",
        "builtin": False,
    }


def test_no_plugins(fakes: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ppokit.config.entries.installed", list)
    assert PluginRegistry().entries() == []
    assert run("plugins", "list") == (0, "No plugins are installed.\n", "")


def test_check_says_what_is_wrong_and_exits_with_1(acme: Path) -> None:
    code, out, _ = run("plugins", "check", ".")
    assert code == 1
    assert re.search(r"rewards\.shorter \(acme_shorter, \.\): \d+ passed, 1 failed", out)
    assert re.search(r"ragged_batch +passed  Responses of different lengths", out)
    assert re.search(r"0\.000 +nothing +''\n +-0\.400 +better +'Yes\.'", out)
    assert (
        "failed: nothing_wins: rewards 'shorter' (plugin acme_shorter, .): the answer of nothing, ''," in out
    )


def test_check_takes_options_and_lists_waivers(acme: Path) -> None:
    path = acme / "acme_shorter.py"
    path.write_text(SHORTER.replace("examples=[Ex", "waivers={'time': 'it is slow'}, examples=[Ex"))
    data = json.loads(run("plugins", "check", ".", "best=4", "--json")[1])
    assert (data[0]["component"], data[0]["passed"]) == ("rewards.shorter", True)
    assert [(r["check"], r["detail"]) for r in data[0]["results"] if r["outcome"] == "waived"] == [
        ("time", "it is slow")
    ]
    assert data[0]["examples"][0] == {"score": "0.000", "rank": "better", "response": "'Yes.'"}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ("lenth",),
            "'lenth': nothing installed has this name, and there is no such folder; did you mean 'length'?",
        ),
        (("empty",), "there is no pyproject.toml in it"),
        (("acme_shorter:shorter",), "has no 'shorter'"),
        (("length", "target"), "override 'target': expected key=value"),
        (("length", "target=[1"), "override 'target=[1': '[1' is "),
        (
            ("numbered",),
            "the entry point 'rewards' is {'zz': 'x'}; expected [project.entry-points",
        ),
        (("flat",), "flat/pyproject.toml announces no component"),
    ],
)
def test_check_exits_with_2_where_there_is_nothing_to_check(
    acme: Path, words: tuple[str, ...], message: str
) -> None:
    (acme / "empty").mkdir()
    for name, text in [("numbered", ".ppokit]\nrewards.zz = 'x'"), ("flat", "]\nppokit = 'x'")]:
        (acme / name).mkdir()
        (acme / name / "pyproject.toml").write_text(f"[project.entry-points{text}\n")
    code, _, err = run("plugins", "check", *words)
    assert code == 2
    assert message in err


def test_validate_warns_where_nothing_wins(acme: Path) -> None:
    Path("r.yaml").write_text(RECIPE.replace("acme_shorter:Shorter", "acme_shorter:thing"))
    path = acme / "acme_shorter.py"
    path.write_text(SHORTER + "\nthing = ppokit_reward_providers()[0]\n")
    with pytest.warns(PpokitWarning, match=r"answer of nothing, '', scores 0, and no .*\(-0\.4 at most\)"):
        code, out, _ = run("validate", "r.yaml")
    assert code == 0
    assert "r.yaml: OK" in out.splitlines()
    assert run("validate", "r.yaml", "rewards.0.best=4")[0] == 0  # without a warning, which would be an error
    assert run("validate", "r.yaml", "rewards.0.weight=-1")[0] == 0
    assert run("validate", "r.yaml", "rewards.0.weight=0")[0] == 0
    with pytest.warns(
        PpokitWarning, match=r"answer of nothing, '', scores -0\.2, and no .*\(-0\.2 at most\)"
    ):
        run("validate", "r.yaml", "rewards.0.best=2")


@pytest.mark.thorough
def test_listing_two_hundred_distributions_takes_little_time(tmp_path: Path) -> None:
    """Under 0.3 s of CPU beyond what starting the program takes, and without torch or pydantic's models."""
    for i in range(200):
        modules = {f"listed_{i}": f'"""Reward {i}."""\n'}
        fake_plugins.distribution(tmp_path, f"dist-{i}", {f"rewards.r{i}": f"listed_{i}"}, modules)
    program = (
        "import sys, time\nimport ppokit.cli\nbegan = time.process_time()\n"
        "from ppokit.config.registry import PluginRegistry\n"
        "count = len([e for e in PluginRegistry().entries() if not e.builtin])\n"
        "print(count, time.process_time() - began, 'ppokit.plugin' in sys.modules)\n"
    )
    env = {**os.environ, "PYTHONPATH": str(tmp_path)}
    completed = subprocess.run(
        [sys.executable, "-c", program], env=env, capture_output=True, text=True, check=True
    )
    count, seconds, plugin = completed.stdout.split()
    assert (int(count), plugin) == (200, "False")
    assert float(seconds) < 0.3


def test_check_ends_though_a_reward_does_not(acme: Path) -> None:
    """Nor are the examples of such a reward scored."""
    source = SHORTER.replace("        print", "        while True:\n            pass\n        print")
    examples = "    examples = [Example(('Yes.',), ('No.',))]\n    best"
    (acme / "acme_endless.py").write_text(source.replace("    best", examples))
    code, out, _ = run("plugins", "check", "acme_endless:Shorter", "--seconds", "0.05")
    assert code == 1
    assert "it did not return within 1.5 s, 30 times what a call may take" in out
    assert "Examples" not in out
