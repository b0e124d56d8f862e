"""A run that stopped goes on as if it had not."""

from __future__ import annotations

import shutil
import signal
import subprocess
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from ppokit import PPOTrainer, Recipe, hookimpl
from ppokit.errors import PluginError, PpokitError, PpokitWarning, RunFolderError
from ppokit.models.quantization import installed
from runs import lasting, metrics_of, rollouts_of, weights_of

RecipeDict = Callable[..., dict[str, Any]]
# Both keep state from step to step.
REWARDS = [
    {"use": "pattern", "pattern": "[aeiou]", "mode": "count", "scale": "running"},
    {"use": "kl_penalty", "coefficient": 0.1, "target": 1.0, "horizon": 20},
]


class StopError(Exception):
    pass


class StopAfter:
    """An observer that breaks the run."""

    def __init__(self, step: int) -> None:
        self.step = step

    @hookimpl
    def on_step(self, step: int) -> None:
        if step == self.step:
            raise StopError


class StopIn:
    """An observer that breaks the run when a phase of a step begins."""

    def __init__(self, step: int, phase: str) -> None:
        self.at = (step, phase)

    @hookimpl
    def on_phase(self, step: int, phase: str) -> None:
        if (step, phase) == self.at:
            raise StopError


def assert_same(result: Path, expected: Path, steps: int) -> None:
    lines = metrics_of(result)
    assert [line["step"] for line in lines] == list(range(1, steps + 1))
    assert [lasting(line) for line in lines] == [lasting(line) for line in metrics_of(expected)]
    assert rollouts_of(result) == rollouts_of(expected)
    ours, theirs = weights_of(result, steps), weights_of(expected, steps)
    assert ours.keys() == theirs.keys()
    different = [name for name in theirs if not torch.equal(ours[name], theirs[name])]
    assert not different
    state = f"checkpoints/step-{steps:06d}/state.json"
    assert (result / state).read_text() == (expected / state).read_text()


def settings(out: Path, steps: int = 6) -> dict[str, Any]:
    return {"steps": steps, "out": str(out), "checkpoint_every": 3}


@pytest.mark.parametrize(
    ("model", "lora"),
    [
        ({"dtype": "float32"}, {"r": 4}),
        ({"dtype": "bfloat16"}, {"r": 4}),
        pytest.param(
            {"dtype": "bfloat16", "load_in_4bit": True},
            {"r": 4},
            marks=pytest.mark.skipif(not installed(), reason="bitsandbytes is not installed"),
        ),
        ({"dtype": "float32"}, None),
    ],
    ids=["fp32", "bf16", "4 bits", "all weights"],
)
def test_resumed_equals_straight(
    recipe_dict: RecipeDict,
    tiny_model: Path,
    tmp_path: Path,
    model: dict[str, Any],
    lora: dict[str, Any] | None,
) -> None:
    common = {
        "rewards": REWARDS,
        "model": {"name": str(tiny_model), **model},
        "lora": lora,
        "update": {"learning_rate": 1e-3, "minibatches": 2, "warmup_steps": 2, "schedule": "cosine"},
    }
    straight = tmp_path / "straight"
    PPOTrainer(Recipe.from_dict(recipe_dict(**common, run=settings(straight)))).train()
    coefficients = [line["reward/kl_penalty/coefficient"] for line in metrics_of(straight)]
    assert len(set(coefficients)) == 6, "the controller is meant to move"

    # Broken after a step, and while the step after a checkpoint is scored.
    breaks: list[tuple[str, Any, int]] = [
        ("after", StopAfter(4), 4),
        ("scored", StopIn(5, "update"), 4),
        ("early", StopIn(2, "reward"), 1),
    ]
    # Where a run breaks has nothing to do with its dtype.
    for name, breaker, completed in breaks[: 3 if model["dtype"] == "float32" and lora else 1]:
        out = tmp_path / name
        recipe = Recipe.from_dict(recipe_dict(**common, run=settings(out)))
        with pytest.raises(PluginError, match="StopError"):
            PPOTrainer(recipe, observers=[breaker]).train()
        resumed = PPOTrainer(Recipe.load(out / "recipe.yaml"), resume=out)
        assert resumed.step == completed
        resumed.train()
        assert_same(out, straight, 6)


def test_a_step_that_came_after_the_checkpoint_is_written_once(
    recipe_dict: RecipeDict, tmp_path: Path
) -> None:
    """As after a kill: the newest checkpoint is of step 3, the files know of five."""
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    PPOTrainer(Recipe.from_dict(recipe_dict(rewards=REWARDS, run=settings(straight)))).train()
    recipe = Recipe.from_dict(recipe_dict(rewards=REWARDS, run=settings(killed)))
    with pytest.raises(PluginError, match="StopError"):
        PPOTrainer(recipe, observers=[StopAfter(5)]).train()
    shutil.rmtree(killed / "checkpoints" / "step-000005")
    with (killed / "metrics.jsonl").open("a") as file:
        file.write('{"step": 6, "rewa')
    PPOTrainer(Recipe.load(killed / "recipe.yaml"), resume=killed).train()
    assert_same(killed, straight, 6)


def test_more_steps_by_override(
    recipe_dict: RecipeDict, tmp_path: Path, ppokit: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    straight, grown = tmp_path / "straight", tmp_path / "grown"
    PPOTrainer(Recipe.from_dict(recipe_dict(rewards=REWARDS, run=settings(straight, 5)))).train()
    PPOTrainer(Recipe.from_dict(recipe_dict(rewards=REWARDS, run=settings(grown, 3)))).train()
    completed = ppokit("train", "--resume", grown, "run.steps=5")
    assert completed.returncode == 0, completed.stderr
    assert "step 4/5" in completed.stdout
    assert "step 3/5" not in completed.stdout
    assert_same(grown, straight, 5)
    assert "steps: 5" in (grown / "recipe.yaml").read_text()


def test_a_finished_run_has_nothing_left_to_do(recipe_dict: RecipeDict, tmp_path: Path) -> None:
    recipe = Recipe.from_dict(recipe_dict())
    PPOTrainer(recipe).train()
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    PPOTrainer(recipe, resume=tmp_path / "run").train()
    assert {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()} == before


def test_killed(
    recipe_file: Callable[..., Path],
    recipe_dict: RecipeDict,
    tmp_path: Path,
    start: Callable[..., subprocess.Popen[str]],
) -> None:
    run = {"steps": 200, "out": str(tmp_path / "run"), "checkpoint_every": 2, "sample_every": 0}
    process = start("train", recipe_file(rewards=REWARDS, run=run))
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("step   4/"):
            break
    process.send_signal(signal.SIGKILL)
    process.wait(timeout=30)
    assert process.returncode == -signal.SIGKILL
    steps = max(line["step"] for line in metrics_of(tmp_path / "run")) + 1

    PPOTrainer(
        Recipe.load(tmp_path / "run" / "recipe.yaml", [f"run.steps={steps}"]), resume=tmp_path / "run"
    ).train()
    straight = tmp_path / "straight"
    PPOTrainer(
        Recipe.from_dict(recipe_dict(rewards=REWARDS, run={**run, "steps": steps, "out": str(straight)}))
    ).train()
    assert_same(tmp_path / "run", straight, steps)


class TestWhatCannotBeResumed:
    @pytest.fixture
    def run(self, recipe_dict: RecipeDict, tmp_path: Path) -> Path:
        PPOTrainer(
            Recipe.from_dict(
                recipe_dict(run={"steps": 2, "out": str(tmp_path / "run"), "checkpoint_every": 1})
            )
        ).train()
        return tmp_path / "run"

    @pytest.mark.parametrize("damage", ["short weights", "no weights", "state is no JSON", "state is a list"])
    def test_damaged(self, run: Path, damage: str) -> None:
        newest = run / "checkpoints" / "step-000002"
        weights = newest / "weights.safetensors"
        if damage == "short weights":
            weights.write_bytes(weights.read_bytes()[:1000])
        elif damage == "no weights":
            weights.unlink()
        else:
            (newest / "state.json").write_text("[]" if damage.endswith("list") else '{"step": 2')
        recipe = Recipe.load(run / "recipe.yaml", ["run.steps=3"])
        with pytest.raises(RunFolderError, match="step-000002 cannot be resumed from"):
            PPOTrainer(recipe, resume=run)
        shutil.rmtree(newest)  # as the error advises
        PPOTrainer(recipe, resume=run).train()
        assert [line["step"] for line in metrics_of(run)] == [1, 2, 3]

    def test_of_another_adapter(self, run: Path) -> None:
        with pytest.raises(RunFolderError, match="expected"):
            PPOTrainer(Recipe.load(run / "recipe.yaml", ["lora.r=8"]), resume=run)

    def test_with_a_component_that_the_checkpoint_has_no_state_of(self, run: Path) -> None:
        with pytest.raises(PpokitError, match="penalty2"):
            PPOTrainer(Recipe.load(run / "recipe.yaml", ["rewards.1.name=penalty2"]), resume=run)

    def test_without_checkpoints(self, run: Path) -> None:
        shutil.rmtree(run / "checkpoints")
        with pytest.raises(RunFolderError, match="has no checkpoint to go on from"):
            PPOTrainer(Recipe.load(run / "recipe.yaml"), resume=run)


def test_an_update_cut_short_is_no_checkpoint(recipe_dict: RecipeDict, tmp_path: Path) -> None:
    """A failure after the first of two passes: the weights are between two steps."""
    straight, broken = tmp_path / "straight", tmp_path / "broken"
    run = {"steps": 3, "checkpoint_every": 2, "keep_checkpoints": 9}
    PPOTrainer(Recipe.from_dict(recipe_dict(run={**run, "out": str(straight)}))).train()
    recipe = Recipe.from_dict(recipe_dict(run={**run, "out": str(broken)}))
    trainer = PPOTrainer(recipe)
    step = trainer.components.backend.step

    def fail(learning_rate: float) -> None:
        step(learning_rate)
        if trainer.components.backend.steps == 5:  # of two per step
            raise StopError

    trainer.components.backend.step = fail  # type: ignore[method-assign]
    with pytest.raises(StopError):
        trainer.train()
    assert [path.name for path in (broken / "checkpoints").iterdir()] == ["step-000002"]
    PPOTrainer(recipe, resume=broken).train()
    assert_same(broken, straight, 3)


def test_what_a_finished_run_has_lost_is_written_again(recipe_dict: RecipeDict, tmp_path: Path) -> None:
    run = tmp_path / "run"
    PPOTrainer(Recipe.from_dict(recipe_dict(run=settings(run, 1)))).train()
    policy = (run / "policy" / "adapter_model.safetensors").read_bytes()
    shutil.rmtree(run / "policy")
    (run / "reward.png").unlink()
    PPOTrainer(Recipe.load(run / "recipe.yaml"), resume=run).train()
    assert (run / "policy" / "adapter_model.safetensors").read_bytes() == policy
    assert (run / "reward.png").stat().st_size > 1000


def test_prompts_that_have_changed_are_told(recipe_dict: RecipeDict, tmp_path: Path) -> None:
    run = tmp_path / "run"
    PPOTrainer(Recipe.from_dict(recipe_dict(run=settings(run, 1)))).train()
    (tmp_path / "prompts.jsonl").write_text('{"prompt": "A cat"}\n')
    with pytest.warns(
        PpokitWarning, match=r"prompts\.path: .*prompts\.jsonl no longer holds the prompts that"
    ):
        PPOTrainer(Recipe.load(run / "recipe.yaml"), resume=run)


def test_held_out_prompts_that_have_changed_are_told(recipe_dict: RecipeDict, tmp_path: Path) -> None:
    """Gains compare with the first evaluation: of other references."""
    run, held_out = tmp_path / "run", tmp_path / "held_out.jsonl"
    held_out.write_text('{"prompt": "The sun", "reference": "rises"}\n')
    evaluation = {"prompts": {"path": str(held_out)}, "evaluators": [{"use": "rewards"}]}
    PPOTrainer(Recipe.from_dict(recipe_dict(run=settings(run, 1), evaluation=evaluation))).train()
    with warnings.catch_warnings():
        warnings.simplefilter("error", PpokitWarning)
        PPOTrainer(Recipe.load(run / "recipe.yaml"), resume=run)
    held_out.write_text('{"prompt": "The sun", "reference": "sets"}\n')
    with pytest.warns(PpokitWarning, match=r"evaluation\.prompts: the held-out .* begin a new run"):
        PPOTrainer(Recipe.load(run / "recipe.yaml"), resume=run)
