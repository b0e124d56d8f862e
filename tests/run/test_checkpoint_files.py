"""Checkpoints: whole or not there, and the same numbers after a round trip."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from ppokit.errors import RunFolderError
from ppokit.run import checkpoint_files
from ppokit.run.checkpoint_files import TrainState, list_checkpoints, load_checkpoint, save_checkpoint
from ppokit.training.optimizer import MasterWeights


def masters_after(steps: int, dtype: torch.dtype = torch.bfloat16, size: int = 3) -> MasterWeights:
    params = {"a": nn.Parameter(torch.ones(size, dtype=dtype)), "b": nn.Parameter(torch.ones(2, 2))}
    master_weights = MasterWeights(params, weight_decay=0.01)
    for step in range(steps):
        master_weights.zero()
        sum((p.float() * (step + 1)).sum() for p in params.values()).backward()  # type: ignore[union-attr]
        master_weights.step(0.1)
    return master_weights


def state_of(step: int) -> TrainState:
    return TrainState(step, {"scorer": {"mean": 0.1 + 0.2}, "rewards/kl": {"log": [1, 2.5]}})


def test_round_trip_bit_by_bit(tmp_path: Path) -> None:
    saved = masters_after(3)
    path = save_checkpoint(tmp_path / "checkpoints", saved.state(), state_of(12), keep=2)
    assert path == tmp_path / "checkpoints" / "step-000012"
    weights, step, components = load_checkpoint(path)
    assert (step, components) == (12, state_of(12).components)
    loaded = masters_after(0)
    loaded.load_state(weights)
    assert set(loaded.state()) == set(saved.state())
    for name, tensor in saved.state().items():
        assert torch.equal(tensor, loaded.state()[name]), name
    for name, param in saved.params.items():
        assert torch.equal(param, loaded.params[name])


def test_only_the_newest_are_kept_by_number(tmp_path: Path) -> None:
    master_weights = masters_after(0)
    for step in (999_998, 999_999, 1_000_000):
        save_checkpoint(tmp_path, master_weights.state(), state_of(step), keep=2)
    assert [path.name for path in list_checkpoints(tmp_path)] == ["step-999999", "step-1000000"]
    assert list_checkpoints(tmp_path / "none") == []


def test_what_a_kill_left_behind_is_no_checkpoint(tmp_path: Path) -> None:
    left = tmp_path / ".step-000003.writing"
    left.mkdir()
    (left / "weights.safetensors").write_bytes(b"half")
    (left / "rubbish").touch()
    assert list_checkpoints(tmp_path) == []
    path = save_checkpoint(tmp_path, masters_after(1).state(), state_of(3), keep=1)
    assert sorted(p.name for p in path.iterdir()) == ["state.json", "weights.safetensors"]
    assert [p.name for p in tmp_path.iterdir()] == ["step-000003"]
    assert load_checkpoint(path)[1] == 3


def test_a_save_that_fails_leaves_the_last_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_checkpoint(tmp_path, masters_after(1).state(), state_of(1), keep=1)

    def full(*args: object, **kwargs: object) -> str:
        raise OSError("no space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint_files.json, "dumps", full)
        with pytest.raises(OSError, match="no space"):
            save_checkpoint(tmp_path, masters_after(2).state(), state_of(2), keep=1)
    assert [p.name for p in list_checkpoints(tmp_path)] == ["step-000001"]
    assert load_checkpoint(list_checkpoints(tmp_path)[-1])[1] == 1


def test_the_same_step_again_takes_its_place(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, masters_after(1).state(), state_of(4), keep=2)
    path = save_checkpoint(tmp_path, masters_after(2).state(), TrainState(4, {}), keep=2)
    assert load_checkpoint(path)[1:] == (4, {})


@pytest.mark.parametrize("damage", ["cut weights", "no weights", "cut state", "no state", "no step"])
def test_a_damaged_checkpoint(tmp_path: Path, damage: str) -> None:
    path = save_checkpoint(tmp_path, masters_after(1).state(), state_of(1), keep=1)
    weights, state = path / "weights.safetensors", path / "state.json"
    if damage == "cut weights":
        weights.write_bytes(weights.read_bytes()[:-7])
    elif damage == "cut state":
        state.write_text(state.read_text()[:-7])
    elif damage == "no step":
        state.write_text("{}")
    else:
        (weights if damage == "no weights" else state).unlink()
    with pytest.raises(RunFolderError, match=r"step-000001 cannot be resumed from: .*delete this checkpoint"):
        load_checkpoint(path)
