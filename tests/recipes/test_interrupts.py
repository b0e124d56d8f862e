"""SIGINT and SIGTERM: the last step is saved, nothing is torn, and the run goes on later."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from ppokit import PPOTrainer, Recipe
from ppokit.errors import Interrupted
from ppokit.run import checkpointer
from runs import metrics_of

Start = Callable[..., subprocess.Popen[str]]


def wait_for(process: subprocess.Popen[str], beginning: str) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith(beginning):
            return
    assert process.stderr is not None
    raise AssertionError(f"{beginning!r} never came; stderr: {process.stderr.read()}")


def wait_for_file(path: Path) -> None:
    until = time.monotonic() + 60
    while not path.exists():
        assert time.monotonic() < until, f"{path} never came"
        time.sleep(0.05)


def stopped(process: subprocess.Popen[str], number: int, run: Path) -> None:
    """It says by what, and how to go on; and so does the run's folder."""
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 128 + number, errors
    name = signal.Signals(number).name
    assert errors.strip() == f"ppokit: stopped by {name}. To go on: ppokit train --resume {run}"
    assert json.loads((run / "end.json").read_text())["stopped_by"] == name


def assert_goes_on(run: Path) -> None:
    (checkpoint,) = sorted((run / "checkpoints").iterdir())[-1:]
    finished_steps = int(checkpoint.name.removeprefix("step-"))
    assert [line["step"] for line in metrics_of(run)] == list(range(1, finished_steps + 1))
    assert (run / "policy" / "adapter_model.safetensors").is_file()
    assert (run / "reward.png").is_file()
    assert not [path for path in run.rglob("*") if "writing" in path.name]
    trainer = PPOTrainer(Recipe.load(run / "recipe.yaml", [f"run.steps={finished_steps + 1}"]), resume=run)
    trainer.train()
    assert [line["step"] for line in metrics_of(run)] == list(range(1, finished_steps + 2))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])
def test_between_and_within_steps(
    recipe_file: Callable[..., Path], tmp_path: Path, start: Start, number: signal.Signals
) -> None:
    run = {"steps": 500, "out": str(tmp_path / "run"), "checkpoint_every": 400, "sample_every": 0}
    process = start("train", recipe_file(run=run))
    wait_for(process, "step   2/500")
    process.send_signal(number)
    stopped(process, number, tmp_path / "run")
    assert_goes_on(tmp_path / "run")


def test_a_reader_that_leaves(recipe_file: Callable[..., Path], tmp_path: Path, start: Start) -> None:
    """`ppokit train ... | head`: not a failure of a plugin's, and nothing done is lost."""
    run = {"steps": 500, "out": str(tmp_path / "run"), "checkpoint_every": 400, "sample_every": 0}
    process = start("train", recipe_file(run=run))
    wait_for(process, "step   2/500")
    assert process.stdout is not None
    process.stdout.close()
    stopped(process, signal.SIGPIPE, tmp_path / "run")
    assert_goes_on(tmp_path / "run")


SLOW = """
import time
from pathlib import Path

calls = 0


def reward(responses):
    global calls
    calls += 1
    if calls == {slow}:
        Path("scoring").touch()
        time.sleep(600)
    return [float(len(text)) for text in responses]
"""


@pytest.mark.parametrize(
    ("slow", "timeout"), [(1, None), (2, None), (2, 500)], ids=["first", "later", "process"]
)
def test_while_a_reward_takes_its_time(
    recipe_file: Callable[..., Path],
    reward_module: Callable[[str], None],
    tmp_path: Path,
    start: Start,
    monkeypatch: pytest.MonkeyPatch,
    slow: int,
    timeout: int | None,
) -> None:
    """Nobody waits for the reward to end, and a checkpoint of the step before is there at once."""
    reward_module(SLOW.format(slow=slow))
    rewards: list[dict[str, Any]] = [{"use": "python", "function": "my_rewards:reward", "timeout": timeout}]
    run = {"steps": 9, "out": str(tmp_path / "run")}
    process = start("train", recipe_file(rewards=rewards, run=run))
    wait_for_file(tmp_path / "scoring")
    process.send_signal(signal.SIGINT)
    stopped(process, signal.SIGINT, tmp_path / "run")
    monkeypatch.chdir(tmp_path)
    reward_module(SLOW.format(slow=0))
    assert (tmp_path / "run" / "checkpoints" / f"step-{slow - 1:06d}").is_dir()
    assert_goes_on(tmp_path / "run")


@pytest.mark.parametrize("moment", ["update", "add_metrics", "add_rollout", "save"])
def test_a_signal_while_a_step_is_finished_waits_for_its_end(
    recipe_dict: Callable[..., dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    """Whenever it comes, the step that is saved is a step that was reported, and a whole one."""
    run = {"steps": 4, "out": str(tmp_path / "run"), "checkpoint_every": 2}
    trainer = PPOTrainer(Recipe.from_dict(recipe_dict(run=run)))
    owner: Any = {"update": trainer.components.updater, "save": trainer.roles}.get(moment, trainer.run_dir)
    name = {"save": "save_policy"}.get(moment, moment)
    call, calls = getattr(owner, name), []

    def interrupted(*arguments: Any, **more: Any) -> Any:
        calls.append(moment)
        if len(calls) == (1 if moment == "save" else 2):
            signal.raise_signal(signal.SIGTERM)
        return call(*arguments, **more)

    monkeypatch.setattr(owner, name, interrupted)
    with pytest.raises(Interrupted) as stop:
        trainer.train()
    assert stop.value.exit_code == 143
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == ["step-000002"]
    assert sorted(path.name for path in (tmp_path / "run" / "rollouts").iterdir()) == [
        "step-000001.parquet",
        "step-000002.parquet",
    ]
    assert_goes_on(tmp_path / "run")


def test_signals_during_the_save_do_not_cut_it_short(
    recipe_dict: Callable[..., dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = PPOTrainer(Recipe.from_dict(recipe_dict()))
    save = checkpointer.save_checkpoint

    def pelted(*args: Any) -> Path:
        signal.raise_signal(signal.SIGTERM)
        saved = save(*args)
        signal.raise_signal(signal.SIGTERM)
        return saved

    monkeypatch.setattr(checkpointer, "save_checkpoint", pelted)
    monkeypatch.setattr(trainer, "score", lambda rollout: signal.raise_signal(signal.SIGTERM))
    with pytest.raises(Interrupted):
        trainer.train()
    assert (tmp_path / "run" / "checkpoints" / "step-000000" / "state.json").is_file()
    assert (tmp_path / "run" / "policy" / "adapter_config.json").is_file()


def test_a_second_signal_does_not_wait_and_saves_nothing_half_done(
    recipe_dict: Callable[..., dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = PPOTrainer(Recipe.from_dict(recipe_dict()))
    step = trainer.components.backend.step
    weights = trainer.components.backend.weights
    before = {name: weight.detach().clone() for name, weight in weights.items()}

    def interrupted(learning_rate: float) -> None:
        step(learning_rate)
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(trainer.components.backend, "step", interrupted)
    with pytest.raises(Interrupted):
        trainer.train()
    saved = load_file(tmp_path / "run" / "checkpoints" / "step-000000" / "weights.safetensors")
    for name, weight in before.items():
        assert torch.equal(saved[f"weights/{name}"], weight)
    assert not any(name.startswith("exp_avg/") for name in saved)
