"""The tracker: a fake one sees what it should, and TensorBoard's own files hold the numbers."""

from __future__ import annotations

import accelerate.tracking
import pytest
from pydantic import ValidationError

import ppokit_observers.tracker as module
from ppokit_observers.tracker import Tracker, TrackerOptions, check


@pytest.mark.parametrize("needs_folder", [True, False])
def test_opens_at_the_first_step_forwards_each_and_closes_once(monkeypatch, context, needs_folder) -> None:
    calls = []

    class Fake:
        requires_logging_directory = needs_folder

        def __init__(self, *arguments):
            calls.append(("init", *arguments))

        def start(self):
            calls.append(("start",))

        def log(self, values, step):
            calls.append(("log", values, step))

        def finish(self):
            calls.append(("finish",))

    monkeypatch.setitem(accelerate.tracking.LOGGER_TYPE_TO_CLASS, "wandb", Fake)
    tracker = Tracker(TrackerOptions(log_with="wandb", project="p", logging_dir="d"), context)
    assert calls == []
    tracker.on_step(1, {"reward/mean": 0.5})
    tracker.on_step(2, {"reward/mean": 1.5})
    tracker.on_run_end()
    tracker.on_run_end()
    opened = ("init", "p", "d") if needs_folder else ("init", "p")
    logged = [("log", {"reward/mean": 0.5}, 1), ("log", {"reward/mean": 1.5}, 2)]
    assert calls == [opened, ("start",), *logged, ("finish",)]


def test_ending_before_the_first_step_opens_nothing(context) -> None:
    Tracker(TrackerOptions(log_with="wandb"), context).on_run_end()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # tensorboard's own
def test_tensorboard_holds_the_numbers(tmp_path, context) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    tracker = Tracker(TrackerOptions(log_with="tensorboard", project="p", logging_dir=str(tmp_path)), context)
    tracker.on_step(1, {"reward/mean": 0.5})
    tracker.on_step(2, {"reward/mean": 1.5})
    tracker.on_run_end()
    events = EventAccumulator(str(tmp_path / "p"))
    events.Reload()
    assert [(e.step, e.value) for e in events.Scalars("reward/mean")] == [(1, 0.5), (2, 1.5)]


def test_every_tracker_is_one_of_accelerates() -> None:
    assert set(accelerate.tracking.LOGGER_TYPE_TO_CLASS) >= set(module.TrackerName.__args__)


def test_a_missing_package_is_a_problem(monkeypatch, unknown_columns) -> None:
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    (problem,) = check(TrackerOptions(log_with="tensorboard"), unknown_columns)
    assert "pip install 'ppokit[trackers]'" in problem
    (problem,) = check(TrackerOptions(log_with="wandb"), unknown_columns)
    assert problem.endswith("pip install wandb")
    monkeypatch.setattr(module, "find_spec", lambda name: "found" if name == "tensorboardX" else None)
    assert list(check(TrackerOptions(log_with="tensorboard"), unknown_columns)) == []


def test_options() -> None:
    for wrong in ({}, {"log_with": "all"}, {"log_with": "wandb", "project": ""}):
        with pytest.raises(ValidationError):
            TrackerOptions(**wrong)
