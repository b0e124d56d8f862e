"""Checkpoints of whole runs: what of a state comes back, what is refused, what is saved all the same."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from ppokit.errors import PluginError, RunFolderError
from ppokit.run.checkpoint_files import list_checkpoints, load_checkpoint
from ppokit.run.checkpointer import Checkpointer
from ppokit.run.components import RunComponent
from ppokit.run.run_dir import RunDir
from ppokit.training.optimizer import MasterWeights


class Holder:
    """Keeps whatever it is given."""

    def __init__(self, state: Any = None) -> None:
        self.state = state

    def state_dict(self) -> Mapping[str, Any]:
        return {"state": self.state}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.state = state["state"]


def weights_of(size: int = 3, names: str = "ab") -> MasterWeights:
    return MasterWeights({name: nn.Parameter(torch.ones(size)) for name in names}, weight_decay=0.0)


def checkpointer(
    folder: Path, *instances: Any, weights: MasterWeights | None = None, kind: str = "losses"
) -> Checkpointer:
    run_dir = RunDir(folder)
    if folder.exists():
        run_dir.resume(0, "model: x\n")
    else:
        run_dir.begin("model: x\n", {})
    components = [RunComponent(f"{kind}/{i}", f"{kind} {i}", one) for i, one in enumerate(instances)]
    return Checkpointer(
        run_dir,
        weights or weights_of(),
        components,
        save_policy=lambda folder: None,
        keep=2,
    )


def saved(folder: Path, *instances: Any, **more: Any) -> Path:
    checkpoints = checkpointer(folder, *instances, **more)
    checkpoints.snapshot(4)
    path = checkpoints.save()
    assert path is not None
    return path


STATES = {
    "integer keys": {3: 0.5, -1: "x"},
    "nested": {"a": [1, (2.5, None), {"b": (True,)}], "()": ()},
    "odd keys": {"__tuple__": 1, "": {(1, "x"): 2, None: 3, True: 4}},
    "not finite": [math.inf, -math.inf],
    "an optimizer's": torch.optim.Adam([nn.Parameter(torch.ones(1))]).state_dict(),
}


@pytest.mark.parametrize("state", STATES.values(), ids=STATES)
def test_a_state_comes_back_as_it_was(tmp_path: Path, state: Any) -> None:
    path = saved(tmp_path / "run", Holder(state), Holder("other"))
    taker, other = Holder(), Holder()
    assert checkpointer(tmp_path / "run", taker, other).load(path) == 4
    assert taker.state == state
    assert repr(taker.state) == repr(state)
    assert other.state == "other"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int64, torch.bool])
def test_tensors_come_back_bit_by_bit(tmp_path: Path, dtype: torch.dtype) -> None:
    numbers = torch.tensor([[0.1, 1.0, -2.5]]).to(dtype)
    state = {"whole": numbers, 7: [numbers.t(), numbers[0, :0], torch.tensor(3.0)], "same": numbers}
    taker = Holder()
    checkpointer(tmp_path / "run", taker).load(saved(tmp_path / "run", Holder(state)))
    assert taker.state["whole"].dtype == dtype
    for ours, theirs in zip(taker.state[7], state[7], strict=True):
        assert torch.equal(ours, theirs)
    assert torch.equal(taker.state["whole"], numbers)
    assert torch.equal(taker.state["same"], numbers)


def test_tensors_of_like_names_are_told_apart(tmp_path: Path) -> None:
    """Keys that JSON and a path would make one."""
    state = {
        1: torch.tensor(1.0),
        "1": torch.tensor(2.0),
        "a": {"b": torch.tensor(3.0)},
        "a/b": torch.tensor(4.0),
    }
    taker = Holder()
    checkpointer(tmp_path / "run", taker).load(saved(tmp_path / "run", Holder(state)))
    assert taker.state == {1: 1.0, "1": 2.0, "a": {"b": 3.0}, "a/b": 4.0}


def test_a_snapshot_does_not_change_with_its_component(tmp_path: Path) -> None:
    holder = Holder({"list": [1], "tensor": torch.zeros(2)})
    checkpoints = checkpointer(tmp_path / "run", holder)
    checkpoints.snapshot(1)
    holder.state["list"].append(2)
    holder.state["tensor"] += 1
    path = checkpoints.save()
    assert path is not None
    state = load_checkpoint(path)[2]["losses/0"]["state"]
    assert state["list"] == [1]
    assert torch.equal(state["tensor"], torch.zeros(2))


class Odd(tuple[int, ...]):
    pass


@pytest.mark.parametrize("state", [{1, 2}, object(), Odd((1,)), b"x", torch.zeros(1, dtype=torch.complex64)])
def test_what_cannot_be_held_is_refused_before_training(tmp_path: Path, state: Any) -> None:
    with pytest.raises(PluginError, match=r"losses 0: state_dict\(\) has a .* at losses/0/state/0;"):
        checkpointer(tmp_path / "run", Holder([state]))


class TestAStateThatCannotBeHeldLater:
    """The run ends, and its weights are saved."""

    @pytest.mark.parametrize("broken", [{1}, "raises"])
    def test_the_weights_of_now_and_the_state_of_before(self, tmp_path: Path, broken: Any) -> None:
        holder, other = Holder({"n": torch.ones(1)}), Holder(1)
        weights = weights_of()
        checkpoints = checkpointer(tmp_path / "run", holder, other, weights=weights)
        weights.gradients()
        weights.step(0.1)
        holder.state, other.state = broken, 2
        if broken == "raises":
            holder.state_dict = lambda: 1 / 0  # type: ignore[method-assign, assignment, return-value]
        with pytest.raises(PluginError, match=r"losses 0: state_dict"):
            checkpoints.snapshot(1)
        path = checkpoints.save()
        assert path is not None
        tensors, step, states = load_checkpoint(path)
        assert step == 1
        assert all(torch.equal(tensors[name], tensor) for name, tensor in weights.state().items())
        assert torch.equal(states["losses/0"]["state"]["n"], torch.ones(1))
        assert states["losses/1"] == {"state": 2}


@pytest.mark.parametrize("missing", ["state_dict", "load_state_dict"])
def test_one_of_the_two_methods_alone_is_refused(tmp_path: Path, missing: str) -> None:
    methods = {name: lambda *_: {} for name in {"state_dict", "load_state_dict"} - {missing}}
    with pytest.raises(PluginError, match=rf"losses 0 has \w+ without {missing}; "):
        checkpointer(tmp_path / "run", type("Half", (), methods)())


def test_a_component_that_the_checkpoint_does_not_know(tmp_path: Path) -> None:
    path = saved(tmp_path / "run", Holder(1))
    with pytest.raises(RunFolderError, match="holds no state of losses/1"):
        checkpointer(tmp_path / "run", Holder(), Holder()).load(path)
    path = saved(tmp_path / "watched", Holder(1), kind="observers")
    new = Holder("as built")
    checkpointer(tmp_path / "watched", Holder(), new, kind="observers").load(path)
    assert new.state == "as built"


def test_a_component_that_does_not_take_its_state_back(tmp_path: Path) -> None:
    class Fussy(Holder):
        def load_state_dict(self, state: Mapping[str, Any]) -> None:
            raise KeyError("n")

    path = saved(tmp_path / "run", Holder(1))
    with pytest.raises(PluginError, match="losses 0: load_state_dict failed: KeyError: 'n'"):
        checkpointer(tmp_path / "run", Fussy()).load(path)


def test_a_checkpoint_of_another_model(tmp_path: Path) -> None:
    path = saved(tmp_path / "run")
    for weights, message in (
        (weights_of(size=5), r"a has shape \[3\]; expected \[5\]"),
        (weights_of(names="a"), "unknown weight weights/b"),
        (weights_of(names="abc"), "KeyError: 'weights/c'"),
    ):
        with pytest.raises(RunFolderError, match=message):
            checkpointer(tmp_path / "run", weights=weights).load(path)


def test_weights_that_have_moved_on_are_not_saved(tmp_path: Path) -> None:
    weights = weights_of()
    checkpoints = checkpointer(tmp_path / "run", weights=weights)
    weights.gradients()
    weights.step(0.1)
    assert checkpoints.save() is None
    assert list_checkpoints(tmp_path / "run" / "checkpoints") == []
