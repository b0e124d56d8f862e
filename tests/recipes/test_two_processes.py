"""Two processes train as one does, and stop together."""

from __future__ import annotations

import json
import math
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from ppokit import PPOTrainer, Recipe
from runs import (
    ENVIRONMENT,
    OPENERS,
    free_port,
    lasting,
    metrics_of,
    rollouts_of,
    run_ppokit,
    run_worker,
    torchrun,
    weights_of,
)

pytestmark = pytest.mark.slow

RecipeFile = Callable[..., Path]
COMMON: dict[str, Any] = {
    # Five prompts, so that two processes have unequal shares.
    "rollout": {"max_new_tokens": 10, "prompts_per_step": 5, "responses_per_prompt": 2},
    "rewards": [
        {"use": "pattern", "pattern": "[aeiou]", "mode": "count", "scale": "running"},
        {"use": "kl_penalty", "coefficient": 0.05, "target": 1.0, "horizon": 50},
    ],
}


def launch(
    launcher: list[str], *arguments: object, cwd: Path, timeout: float = 120
) -> subprocess.CompletedProcess[str]:
    environment = {**ENVIRONMENT, "ACCELERATE_USE_CPU": "true"}
    return run_ppokit(*arguments, cwd=cwd, timeout=timeout, launcher=launcher, environment=environment)


def assert_close(result: Path, expected: Path, steps: int) -> None:
    """Equal but for the order in which floats were added up; weights within a fiftieth of a step of AdamW.

    Where a gradient is near 0, AdamW makes a step of the learning rate's size out of its rounding.
    """
    a_step = max(line.get("learning_rate", 0) for line in metrics_of(expected))
    for ours, theirs in zip(metrics_of(result), metrics_of(expected), strict=True):
        assert ours.keys() == theirs.keys()
        for key, number in lasting(theirs).items():
            assert math.isclose(ours[key], number, rel_tol=1e-3, abs_tol=2e-5), (key, ours[key], number)
    ours_all, theirs_all = rollouts_of(result), rollouts_of(expected)
    assert [r["response"] for rows in ours_all.values() for r in rows] == [
        r["response"] for rows in theirs_all.values() for r in rows
    ]
    for ours_rows, theirs_rows in zip(ours_all.values(), theirs_all.values(), strict=True):
        for ours, theirs in zip(ours_rows, theirs_rows, strict=True):
            for name in ("log_ratio", "entropy", "clipped"):
                assert ours[name] == pytest.approx(theirs[name], rel=1e-2, abs=2e-3), (ours["id"], name)
    theirs_weights = weights_of(expected, steps)
    for name, tensor in weights_of(result, steps).items():
        if name.startswith("weights/"):
            torch.testing.assert_close(tensor, theirs_weights[name], rtol=1e-3, atol=a_step / 50, msg=name)


def train_alone(recipe: Path, out: Path, *overrides: str) -> None:
    PPOTrainer(Recipe.load(recipe, [f"run.out={out}", *overrides])).train()


def test_two_evaluate_as_one(recipe_file: RecipeFile, tmp_path: Path) -> None:
    """Five held-out prompts again, and an evaluator from a file beside the recipe."""
    held_out = tmp_path / "held_out.jsonl"
    rows = [{"prompt": f"{text} then", "text": f" a {text} ran"} for text in OPENERS[:5]]
    held_out.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "my_evaluators.py").write_text(
        "def likely(view, step):\n"
        "    rollout = view.recorded(['Once', 'The dog', 'Mom'], [' upon a time', ' ran', ' said'])\n"
        "    return {'mean': float(view.logprobs(rollout).sum())}\n"
    )
    evaluation = {
        "every": 2,
        "prompts": {"path": str(held_out)},
        "texts": {"path": str(held_out)},
        "evaluators": [
            {"use": "rewards", "samples": 2},
            {"use": "my_evaluators:likely"},
            {"use": "lm", "reference": "text"},
        ],
        "best": "eval/rewards/mean",
        "patience": 1,
    }
    recipe = recipe_file(**COMMON, evaluation=evaluation)
    for name, launcher in (("one", []), ("two", torchrun())):
        completed = launch(
            launcher, "train", recipe, f"run.out={tmp_path / name}", "run.steps=2", cwd=tmp_path
        )
        assert completed.returncode == 0, completed.stderr
    assert [line["step"] for line in metrics_of(tmp_path / "two")] == [0, 1, 2]
    assert_close(tmp_path / "two", tmp_path / "one", 2)
    best = [json.loads((tmp_path / n / "policy-best" / "best.json").read_text()) for n in ("one", "two")]
    assert best[0]["step"] == best[1]["step"]


@pytest.mark.thorough
def test_two_compare_the_responses_of_a_group_as_one(recipe_file: RecipeFile, tmp_path: Path) -> None:
    """Five groups of three: each is compared whole, on either process, however calls are cut."""
    rollout = {"max_new_tokens": 10, "prompts_per_step": 5, "responses_per_prompt": 3}
    recipe = recipe_file(rollout=rollout, rewards=[{"use": "diversity", "n": 1, "concurrency": 2}])
    train_alone(recipe, tmp_path / "one", "run.steps=2")
    two = launch(torchrun(), "train", recipe, f"run.out={tmp_path / 'two'}", "run.steps=2", cwd=tmp_path)
    assert two.returncode == 0, two.stderr
    assert_close(tmp_path / "two", tmp_path / "one", 2)
    columns = [
        [row["reward/diversity"] for rows in rollouts_of(tmp_path / name).values() for row in rows]
        for name in ("one", "two")
    ]
    assert columns[0] == columns[1]
    assert len(set(columns[0])) > 5


@pytest.mark.parametrize(("minibatches", "value"), [(1, "own_adapter"), (2, "policy_trunk")])
def test_two_equal_one(recipe_file: RecipeFile, tmp_path: Path, minibatches: int, value: str) -> None:
    update = {"learning_rate": 1e-3, "epochs": 2, "minibatches": minibatches, "tokens_per_microbatch": 64}
    recipe = recipe_file(**COMMON, update=update, value=value)
    train_alone(recipe, tmp_path / "one")
    both = launch(torchrun(), "train", recipe, f"run.out={tmp_path / 'two'}", cwd=tmp_path)
    assert both.returncode == 0, both.stderr
    assert "float32 on 2 x cpu," in both.stdout
    assert both.stdout.count("step 1/3") == 1, "the main process alone speaks"
    assert_close(tmp_path / "two", tmp_path / "one", 3)


def test_two_overlap_as_one(recipe_file: RecipeFile, tmp_path: Path) -> None:
    """Each asks for its share, and both answer the next prompts before they wait for it."""
    (tmp_path / "lengths.py").write_text(
        "import asyncio\n"
        "class Lengths:\n"
        "    async def score_one(self, sample):\n"
        "        await asyncio.sleep(0.01)\n"
        "        return len(sample.response) / 10\n"
    )
    rewards = [{"use": "lengths:Lengths", "overlap": True}, {"use": "kl_penalty", "weight": 0.05}]
    recipe = recipe_file(rollout=COMMON["rollout"], rewards=rewards)
    for name, launcher in (("one", []), ("two", torchrun())):
        completed = launch(launcher, "train", recipe, f"run.out={tmp_path / name}", cwd=tmp_path)
        assert completed.returncode == 0, completed.stderr
    assert [line["rollout/staleness"] for line in metrics_of(tmp_path / "two")] == [0, 1, 1]
    assert_close(tmp_path / "two", tmp_path / "one", 3)


def test_two_go_on_where_one_stopped(recipe_file: RecipeFile, tmp_path: Path) -> None:
    recipe = recipe_file(**COMMON)
    train_alone(recipe, tmp_path / "one")
    train_alone(recipe, tmp_path / "two", "run.steps=1")
    both = launch(torchrun(), "train", "--resume", tmp_path / "two", "run.steps=3", cwd=tmp_path)
    assert both.returncode == 0, both.stderr
    assert "float32 on 2 x cpu," in both.stdout
    assert_close(tmp_path / "two", tmp_path / "one", 3)


def test_accelerate_launch_is_the_same_program(recipe_file: RecipeFile, tmp_path: Path) -> None:
    """Two processes, by the configuration of two GPUs: for MULTI_CPU the launcher itself starts only one."""
    config = tmp_path / "accelerate.yaml"
    config.write_text(
        "compute_environment: LOCAL_MACHINE\ndistributed_type: MULTI_GPU\nnum_processes: 2\n"
        f"num_machines: 1\nmachine_rank: 0\nmain_process_port: {free_port()}\nmixed_precision: 'no'\n"
    )
    recipe = recipe_file(**COMMON)
    train_alone(recipe, tmp_path / "one")
    launcher = ["accelerate.commands.launch", "--config_file", str(config)]
    completed = launch(launcher, "train", recipe, f"run.out={tmp_path / 'two'}", cwd=tmp_path)
    assert completed.returncode == 0, completed.stderr
    assert "float32 on 2 x cpu," in completed.stdout
    assert_close(tmp_path / "two", tmp_path / "one", 3)


FAILS_ON_ONE = """
import os

def reward(responses):
    if os.environ.get("RANK") == "{rank}":
        {does}
    return [float(len(text)) for text in responses]
"""


@pytest.mark.parametrize(
    ("rank", "does", "message"),
    [(1, "raise KeyError('no answer')", "no answer"), (0, "return [1.0]", "returned 1 number")],
)
def test_a_reward_that_fails_on_one_process_stops_both(
    recipe_file: RecipeFile,
    reward_module: Callable[[str], None],
    tmp_path: Path,
    rank: int,
    does: str,
    message: str,
) -> None:
    reward_module(FAILS_ON_ONE.format(rank=rank, does=does))
    rewards = [{"use": "python", "function": "my_rewards:reward"}]
    started = time.monotonic()
    completed = launch(
        torchrun(), "train", recipe_file(**{**COMMON, "rewards": rewards}), cwd=tmp_path, timeout=60
    )
    assert time.monotonic() - started < 45
    assert completed.returncode != 0
    assert message in completed.stderr
    assert not (tmp_path / "run").exists()


FAILURES = """
import os

import torch

from ppokit import hookimpl
from ppokit.plugin import Advantages, LossOutput, RewardOutput

RANK = int(os.environ["RANK"])


def fail(rank, what):
    if RANK == rank:
        raise ValueError(f"{what} on {rank}")


def estimator(rollout, rewards):
    fail(1, "estimate")
    return Advantages(torch.zeros(rollout.response_ids.shape))


def loss(inputs):
    fail(1, "loss")
    return LossOutput(inputs.advantages * inputs.new_logprobs)


loss.needs = {"new_logprobs"}


def evaluator(view, step):
    fail(1, "evaluate")
    view.score(view.generate(["Once", "The dog", "Mom"]))
    return {"one": 1.0}


def deaf_evaluator(view, step):
    if RANK == 0:
        for _ in range(2):
            try:
                view.generate(["Once", "The dog", "Mom"])
            except Exception:
                pass
    fail(1, "evaluate")
    return {"one": 1.0}


class Observer:
    @hookimpl
    def on_step(self):
        fail(0, "on_step")


class Reward:
    def score(self, rollout):
        return RewardOutput.from_values([float(len(text)) for text in rollout.responses])


class BuildReward(Reward):
    def __init__(self):
        fail(0, "build")


class PhaseReward(Reward):
    @hookimpl
    def on_phase(self, phase):
        if phase == "update":
            fail(1, "on_phase")


class StateReward(Reward):
    calls = 0

    def state_dict(self):
        self.calls += 1
        if self.calls == 3:
            fail(1, "state_dict")
        return {}

    def load_state_dict(self, state):
        pass
"""


def test_what_fails_on_one_process_ends_both(
    recipe_dict: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    """Whatever its kind; and the processes are in step again afterwards."""
    (tmp_path / "failures.py").write_text(FAILURES)
    evaluate = {"every": 1, "evaluators": [{"use": "failures:evaluator"}]}
    estimate = {"advantages": {"use": "failures:estimator"}, "losses": [{"use": "ppo_clip"}]}
    cases: dict[str, tuple[dict[str, Any], str]] = {
        "estimator": (estimate, "estimate on 1"),
        "own_loop": (estimate, "estimate on 1"),
        "evaluator": ({"evaluation": evaluate}, "evaluate on 1"),
        "swallowed": (
            {"evaluation": {**evaluate, "evaluators": [{"use": "failures:deaf_evaluator"}]}},
            "evaluate on 1",
        ),
        "observer": ({"observers": [{"use": "failures:Observer", "on_error": "stop"}]}, "on_step on 0"),
        "loss": ({"losses": [{"use": "failures:loss"}]}, "loss on 1"),
        "build": ({"rewards": [{"use": "failures:BuildReward"}]}, "build on 0"),
        "phase": ({"rewards": [{"use": "failures:PhaseReward"}]}, "on_phase on 1"),
        "state": ({"rewards": [{"use": "failures:StateReward"}]}, "state_dict on 1"),
        "good": ({}, "done"),
    }
    for name, (sections, _) in cases.items():
        recipe = recipe_dict(**{**COMMON, **sections})
        recipe["run"] = {"steps": 1, "out": str(tmp_path / "runs" / name), "sample_every": 0}
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(recipe))
    files = [tmp_path / f"{name}.yaml" for name in cases]
    run_worker("failure_worker.py", *files, cwd=tmp_path, timeout=120)
    for name, (_, expected) in cases.items():
        on_first, on_second = ((tmp_path / f"{name}.{rank}").read_text() for rank in (0, 1))
        assert expected in on_first, name
        assert on_first == on_second, name
