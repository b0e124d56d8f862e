"""Whole runs where tensors of the CPU and of the card do not mix: a pretended card with CUDA's rules.

The numbers are the CPU's, up to rounding, since the kernels for CPUs stay away from it.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from packaging.version import Version

pytestmark = pytest.mark.skipif(
    Version(torch.__version__) < Version("2.11"), reason="devices in Python are whole since torch 2.11"
)

WORKER = Path(__file__).with_name("card_worker.py")
VARIANTS: dict[str, dict[str, Any]] = {
    "own value adapter": {"update": {"epochs": 2, "minibatches": 1}},
    "value on the trunk, checkpointing, static cache": {
        "value": "policy_trunk",
        "rollout": {"decoding": "static"},
        "update": {"epochs": 1, "minibatches": 2, "activation_checkpointing": True},
        "losses": [
            {"use": "off_policy_correction"},
            {"use": "ppo_clip"},
            {"use": "kl"},
            {"use": "entropy", "weight": 0.01},
            {"use": "value_clip", "weight": 0.1},
        ],
    },
    "all weights": {
        "lora": None,
        "advantages": {"use": "group_relative"},
        "losses": [{"use": "ppo_clip"}],
        "update": {"epochs": 2, "minibatches": 2, "learning_rate": 1e-5},
        "rollout": {"top_k": 20, "top_p": 0.9, "temperature": 0.7, "stop": ["."], "min_new_tokens": 2},
    },
}


def recipe_of(tiny_model: Path, folder: Path, sections: Mapping[str, Any]) -> dict[str, Any]:
    prompts = folder / "prompts.jsonl"
    texts = ("Once upon a time", "Lily went to the", "One day, Tom", "The dog was")
    prompts.write_text("".join(json.dumps({"prompt": text}) + "\n" for text in texts))
    lora = sections.get("lora", {"r": 4})
    penalty = [] if lora is None else [{"use": "kl_penalty", "weight": 0.05}]
    recipe = {
        "model": {"name": str(tiny_model), "dtype": "float32"},
        "prompts": {"path": str(prompts)},
        "rewards": [{"use": "pattern", "pattern": "[aeiou]", "mode": "count"}, *penalty],
        "losses": [{"use": "ppo_clip"}, {"use": "value_clip", "weight": 0.1}],
        **sections,
        "lora": lora,
        "rollout": {
            "max_new_tokens": 4,
            "prompts_per_step": 4,
            "responses_per_prompt": 2,
            **sections.get("rollout", {}),
        },
        "update": {"learning_rate": 1e-3, "tokens_per_microbatch": 64, **sections["update"]},
        "run": {"steps": 1, "sample_every": 0},
    }
    return {key: value for key, value in recipe.items() if value is not None}


@pytest.fixture(
    scope="module",
    params=[
        name if number == 0 else pytest.param(name, marks=pytest.mark.thorough)
        for number, name in enumerate(VARIANTS)
    ],
)
def runs(
    request: pytest.FixtureRequest, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Any]:
    variant = request.param
    folder = tmp_path_factory.mktemp("card")
    recipes = {"run": recipe_of(tiny_model, folder, VARIANTS[variant])}
    done = subprocess.run(
        [sys.executable, WORKER],
        input=json.dumps(recipes),
        capture_output=True,
        text=True,
        cwd=folder,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])["run"]
    return {**result, "update": recipes["run"]["update"]}


class TestOnACard:
    def test_numbers_are_those_of_the_cpu(self, runs: Mapping[str, Any]) -> None:
        cpu, card = (runs[where]["metrics"] for where in ("cpu", "card"))
        varying = ("time/", "memory/", "tokens_per_s", "rollout/logprob_gap")
        compared = {name for name in cpu if not name.startswith(varying)}
        assert {name for name in card if not name.startswith(varying)} == compared
        assert {name: card[name] for name in compared} == pytest.approx(
            {name: cpu[name] for name in compared}, rel=1e-2, abs=1e-4
        )

    def test_the_update_waits_once_per_micro_batch(self, runs: Mapping[str, Any]) -> None:
        """And for the gradient's norm of each optimizer step; the optimizer's copy for a rollback aside."""
        run = runs["card"]
        update = runs["update"]
        epochs, minibatches = update["epochs"], update["minibatches"]
        counts: dict[str, int] = {}
        for _, place, count in run["waits"]:
            module = place.split(":")[0]
            if module != "ppokit/training/optimizer.py":
                counts[module] = counts.get(module, 0) + count
        assert counts.pop("ppokit/training/readings.py") == epochs * run["microbatches"]
        assert counts.pop("ppokit/training/backend.py") == epochs * minibatches
        before = counts.pop(
            "ppokit/training/microbatches.py", 0
        )  # old log-probabilities, before the first step
        assert before <= run["microbatches"]
        assert not counts

    def test_a_run_goes_on(self, runs: Mapping[str, Any]) -> None:
        """The optimizer's moments and its count of steps are taken back onto the card."""
        assert runs["resumed"] == 2
