"""What stops a run that would train nothing, or the wrong thing."""

from __future__ import annotations

import math
import resource
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from ppokit import PPOTrainer, Recipe
from ppokit.errors import (
    ModelError,
    NonFiniteError,
    PluginError,
    PpokitWarning,
    RunFolderError,
    TrainingError,
)
from ppokit.models.roles import ModelRoles
from ppokit.plugin.types import Rewards, Rollout
from ppokit.run import checkpointer
from ppokit.training.checks import check_first_kl, check_moved
from runs import metrics_of

RecipeDict = Callable[..., dict[str, Any]]

PENALTY = [{"use": "pattern", "pattern": "a", "mode": "count"}, {"use": "kl_penalty", "weight": 0.05}]
LOSS = [{"use": "ppo_clip"}, {"use": "kl", "weight": 0.05}]


def sections(before_the_update: bool) -> dict[str, Any]:
    """The KL as a reward, which needs log-probabilities before the update, or as a loss, which does not."""
    if before_the_update:
        return {"rewards": PENALTY}
    return {"rewards": PENALTY[:1], "losses": LOSS, "advantages": {"use": "group_relative"}}


@pytest.mark.parametrize("before_the_update", [True, False], ids=["kl-reward", "kl-loss"])
def test_the_reference_is_what_training_starts_from(
    recipe_dict: RecipeDict, tmp_path: Path, before_the_update: bool
) -> None:
    trainer = PPOTrainer(Recipe.from_dict(recipe_dict(**sections(before_the_update))))
    with torch.no_grad():
        for name, param in trainer.roles.trainable.items():
            if trainer.roles.is_policy(name) and "lora_B" in name:
                param.normal_(std=0.5)
    with pytest.raises(TrainingError, match=r"the KL \(k3\) between policy and reference is \d"):
        trainer.train()
    assert not list((tmp_path / "run").glob("checkpoints/*"))


@pytest.mark.parametrize("before_the_update", [True, False], ids=["kl-reward", "kl-loss"])
def test_it_is_so_in_an_ordinary_run(
    recipe_dict: RecipeDict, tmp_path: Path, before_the_update: bool
) -> None:
    PPOTrainer(Recipe.from_dict(recipe_dict(**sections(before_the_update)))).train()
    first, *_, last = metrics_of(tmp_path / "run")
    assert abs(first["kl/k3"]) < 1e-5 < last["kl/k3"]


@pytest.mark.parametrize("mean", [0.011, math.nan, math.inf])
def test_a_first_kl(mean: float) -> None:
    with pytest.raises(TrainingError, match="The reference is not the model that training starts from"):
        check_first_kl(mean)


def test_a_first_kl_of_rounding_or_none() -> None:
    check_first_kl(0.009)
    check_first_kl(None)


def test_a_policy_must_move_where_there_is_something_to_learn() -> None:
    assert check_moved("a", "b", torch.ones(2, 3))
    assert not check_moved("a", "a", torch.zeros(2, 3))
    with pytest.raises(TrainingError, match="the policy did not change in its first update"):
        check_moved("a", "a", torch.ones(2, 3))


def test_something_must_train(recipe_dict: RecipeDict, monkeypatch: pytest.MonkeyPatch) -> None:
    nothing = property(lambda _: {"nothing": torch.empty(0)}, lambda _, value: None)
    monkeypatch.setattr(ModelRoles, "trainable", nothing, raising=False)
    with pytest.raises(ModelError, match="no parameter is left to train"):
        PPOTrainer(Recipe.from_dict(recipe_dict()))


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="there is no /proc here")
def test_a_folder_that_cannot_be_made_after_all(recipe_dict: RecipeDict) -> None:
    """/proc lets root in, by its permissions, and takes no folder; what is told is that, and nothing else."""
    recipe = recipe_dict(run={"steps": 2, "out": "/proc/ppokit-run", "sample_every": 0})
    with pytest.raises(RunFolderError, match=r"run\.out: /proc/ppokit-run cannot be (written|created): "):
        PPOTrainer(Recipe.from_dict(recipe)).train()


def test_a_disk_that_is_full(recipe_dict: RecipeDict, tmp_path: Path) -> None:
    """By a limit on the size of files, under which the adapter does not fit."""
    trainer = PPOTrainer(Recipe.from_dict(recipe_dict(run={"steps": 2, "out": str(tmp_path / "run")})))
    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, before[1]))
    try:
        with pytest.raises(RunFolderError, match=r"run\.out: .*run cannot be written: .*too large"):
            trainer.train()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert [line["step"] for line in metrics_of(tmp_path / "run")] == [1, 2]


def test_what_went_wrong_first_is_told_though_the_save_fails_too(
    recipe_dict: RecipeDict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = PPOTrainer(Recipe.from_dict(recipe_dict()))
    score = trainer.score
    full = OSError(28, "No space left on device")

    def fails_later(rollout: Rollout) -> Rewards:
        if trainer.step == 1:
            raise PluginError("the reward is gone")
        return score(rollout)

    monkeypatch.setattr(trainer, "score", fails_later)
    monkeypatch.setattr(checkpointer, "save_checkpoint", lambda *_: (_ for _ in ()).throw(full))
    with (
        pytest.raises(PluginError, match="the reward is gone"),
        pytest.warns(PpokitWarning, match="the last step is not saved: .*No space left"),
    ):
        trainer.train()


@pytest.mark.filterwarnings("default::ppokit.errors.PpokitWarning")
def test_a_number_that_is_not_finite_is_told_though_its_samples_cannot_be_kept(
    recipe_dict: RecipeDict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a full disk, where the last step cannot be saved either."""
    trainer = PPOTrainer(Recipe.from_dict(recipe_dict()))

    def full(*_: Any) -> None:
        raise RunFolderError("run.out: no space left")

    def infinite(*_: Any, **__: Any) -> None:
        raise NonFiniteError("the step was not taken: loss 'policy' is inf")

    monkeypatch.setattr(trainer.run_dir, "add_rollout", full)
    monkeypatch.setattr(trainer.checkpointer, "save", full)
    monkeypatch.setattr(trainer.components.updater, "update", infinite)
    with (
        pytest.raises(NonFiniteError, match="loss 'policy' is inf"),
        pytest.warns(PpokitWarning, match="the last step is not saved: .*no space"),
        pytest.warns(PpokitWarning, match="the samples of the failed step are not kept: .*no space"),
    ):
        trainer.train()


def test_a_launch_that_would_be_ignored_is_refused_before_a_model_loads(
    recipe_dict: RecipeDict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    recipe = Recipe.from_dict(recipe_dict(run={"steps": 1, "out": str(tmp_path / "run")}))
    with pytest.raises(TrainingError, match="asks for FSDP"):
        PPOTrainer(recipe)
    assert not (tmp_path / "run").exists()
