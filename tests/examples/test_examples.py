"""The examples run, on a tiny model."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"

pytestmark = pytest.mark.slow


def call(*command: object, cwd: Path, path: Path | None = None) -> str:
    env = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(path or "")}
    completed = subprocess.run(
        [sys.executable, *map(str, command)], cwd=cwd, env=env, capture_output=True, text=True, check=False
    )
    assert completed.returncode == 0, completed.stdout + completed.stderr
    return completed.stdout


def test_own_loop(tiny_model: Path, tmp_path: Path) -> None:
    script = EXAMPLES / "own_loop.py"
    assert len(script.read_text(encoding="utf-8").splitlines()) <= 100
    out = call(script, "--model", tiny_model, "--steps", 2, cwd=tmp_path)
    assert "step  2  reward" in out
    assert "held-out reward" in out
    assert (tmp_path / "runs" / "own_loop" / "policy").is_dir()


def test_one_file_experiment(tiny_model: Path, tmp_path: Path) -> None:
    changes = (f"model.name={tiny_model}", "run.steps=1", f"run.out={tmp_path / 'run'}")
    call("-m", "ppokit", "train", "recipe.yaml", *changes, cwd=EXAMPLES / "one_file_experiment")
    assert (tmp_path / "run" / "metrics.jsonl").is_file()


def test_politeness(tmp_path: Path) -> None:
    """Its own test, where it is installed; its entry point is tried with the documentation."""
    example = EXAMPLES / "ppokit-politeness"
    call("-m", "pytest", "-q", "-p", "no:cacheprovider", example, cwd=tmp_path, path=example)
