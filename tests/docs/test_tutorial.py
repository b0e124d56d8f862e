"""docs/tutorial.md: every command is run, in order, on a small model; there are at most ten."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from pages import blocks_of, commands_of, read
from ppokit.cli.new_plugin import create

PAGE = "docs/tutorial.md"
COMMANDS = [command.text for command in commands_of(PAGE, read(PAGE)) if command.in_block]
SMALL = ("rollout.max_new_tokens=6", "run.steps=2")


def test_there_are_at_most_ten_commands() -> None:
    assert 5 <= len(COMMANDS) <= 10
    assert COMMANDS[0] == "pip install ppokit"


def test_what_it_shows_of_the_module_is_generated(tmp_path: Path) -> None:
    source = (create("polite", "reward", tmp_path) / "ppokit_polite.py").read_text()
    (shown,) = [block.text for block in blocks_of(PAGE, read(PAGE)) if block.text.startswith("@reward")]
    for line in shown.splitlines():
        assert "".join(line.removesuffix(" ...)").split()) in "".join(source.split())


@pytest.mark.slow
@pytest.mark.thorough
def test_every_command_runs(tiny_model: Path, tmp_path: Path) -> None:
    """pip's into a folder that is imported from; ppokit itself is installed already."""
    here, site = tmp_path, tmp_path / "site"
    env = {**os.environ, "PYTHONPATH": str(site), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    outputs = {}
    for command in COMMANDS:
        program, *words = shlex.split(command)
        if program == "cd":
            here = here / words[0]
            continue
        if command == "pip install ppokit":
            continue
        if program == "pip":
            options = ["--no-deps", "--no-build-isolation", "--no-index", "-q", "--target", str(site)]
            words, program = ["install", *options, "."], "pip"
        if words[:1] == ["train"]:
            words += [f"model.name={tiny_model}", *SMALL]
        completed = subprocess.run(
            [sys.executable, "-m", program, *words], cwd=here, env=env, capture_output=True, text=True
        )
        assert completed.returncode == 0, f"{command}\n{completed.stdout}{completed.stderr}"
        outputs[command] = completed.stdout
    shown = [block.text for block in blocks_of(PAGE, read(PAGE)) if block.kind == "text"]
    assert outputs["ppokit plugins new polite --kind reward"] == shown[0]
    (checked,) = [text for text in shown if text.startswith("rewards.polite")]
    for line in checked.splitlines():
        assert line.strip() in ("...", "") or line in outputs["ppokit plugins check polite"]
    metrics = (tmp_path / "ppokit-polite" / "runs" / "polite" / "metrics.jsonl").read_text().splitlines()
    assert len(metrics) == 2
    assert "reward/mean" in json.loads(metrics[-1])
