"""The tracker: a fake one sees what it should, and TensorBoard's own files hold the numbers."""

from __future__ import annotations

import json
from html.parser import HTMLParser

import accelerate.tracking
import pytest
import torch
from pydantic import ValidationError

import ppokit_observers.tracker as module
from hostile_texts import HOSTILE
from ppokit.plugin import Recorded, Rewards, Rollout, visible
from ppokit_observers.sample_tables import as_markdown, training_table, without_markup
from ppokit_observers.tracker import Tracker, TrackerOptions, check

WRITABLE = list(HOSTILE.values())


def rewards_of(rollout: Rollout) -> Rewards:
    """The later a response stands, the better it is."""
    scores = torch.arange(len(rollout), dtype=torch.float32)
    every = torch.ones(len(rollout), dtype=torch.bool)
    return Rewards(
        token_rewards=torch.zeros(rollout.response_ids.shape),
        scores=scores,
        breakdown={"judge": scores},
        outcomes={"judge": ("scored",) * len(rollout)},
        scored=every,
        trained=every,
    )


def run_of(tracker: Tracker, make_rollout) -> None:
    """Three steps of hostile responses after an evaluation."""
    accelerate.PartialState()  # as in every run
    rollout = make_rollout(WRITABLE)
    recorded = Recorded("rewards", rollout, {"score": [0.5] * len(rollout)})
    tracker.on_evaluation(0, {"eval/rewards/mean": 0.25}, [recorded])
    for step in (1, 2, 3):
        tracker.on_step(step, rollout, rewards_of(rollout), {"reward/mean": step - 0.5})
    tracker.on_run_end()


class Rendered(HTMLParser):
    """Elements of an HTML table, and the texts of its cells."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: set[str] = set()
        self.cells: list[list[str]] = []

    def handle_starttag(self, tag, attrs) -> None:
        self.tags.add(tag)
        if tag == "tr":
            self.cells.append([])
        elif tag in ("th", "td"):
            self.cells[-1].append("")

    def handle_data(self, data) -> None:
        if self.cells and self.cells[-1] and data.strip():
            self.cells[-1][-1] += data


def rendered(markdown: str) -> Rendered:
    from tensorboard.plugin_util import markdown_to_safe_html

    shown = Rendered()
    shown.feed(markdown_to_safe_html(markdown))
    return shown


def on_one_line(text: str) -> str:
    return " ".join(visible(text, 2000).replace("\n", " ↵ ").split())


@pytest.mark.parametrize("needs_folder", [True, False])
def test_opens_at_the_first_step_forwards_each_and_closes_once(
    monkeypatch, context, make_rollout, needs_folder
) -> None:
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
    options = TrackerOptions(log_with="wandb", project="p", logging_dir="d", samples_every=0)
    tracker = Tracker(options, context)
    assert calls == []
    rollout = make_rollout()
    tracker.on_step(1, rollout, rewards_of(rollout), {"reward/mean": 0.5})
    tracker.on_step(2, rollout, rewards_of(rollout), {"reward/mean": 1.5})
    tracker.on_run_end()
    tracker.on_run_end()
    opened = ("init", "p", "d") if needs_folder else ("init", "p")
    logged = [("log", {"reward/mean": 0.5}, 1), ("log", {"reward/mean": 1.5}, 2)]
    assert calls == [opened, ("start",), *logged, ("finish",)]


def test_ending_before_the_first_step_opens_nothing(context) -> None:
    Tracker(TrackerOptions(log_with="wandb"), context).on_run_end()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # tensorboard's own
def test_tensorboard_holds_numbers_and_samples(tmp_path, context, make_rollout) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    options = TrackerOptions(
        log_with="tensorboard", project="p", logging_dir=str(tmp_path), samples_every=2, samples=50
    )
    run_of(Tracker(options, context), make_rollout)
    events = EventAccumulator(str(tmp_path / "p"))
    events.Reload()
    assert [(e.step, e.value) for e in events.Scalars("reward/mean")] == [(1, 0.5), (2, 1.5), (3, 2.5)]
    assert [(e.step, e.value) for e in events.Scalars("eval/rewards/mean")] == [(0, 0.25)]
    tables = {
        name: [
            (e.step, e.tensor_proto.string_val[0].decode()) for e in events.Tensors(f"{name}/text_summary")
        ]
        for name in ("samples/training", "samples/eval/rewards")
    }
    assert [step for step, _ in tables["samples/training"]] == [1, 2]
    assert [step for step, _ in tables["samples/eval/rewards"]] == [0]
    shown = rendered(tables["samples/training"][0][1])
    assert shown.cells[0] == ["prompt", "response", "outcome", "score", "judge"]
    assert [row[1] for row in shown.cells[1:]] == [on_one_line(text) for text in reversed(WRITABLE)]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # tensorboard's own
@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_tensorboard_draws_texts_as_texts(text) -> None:
    """By its own conversion to HTML: nothing but a table, whose cells say what was written."""
    pytest.importorskip("tensorboard")
    shown = rendered(as_markdown((["response", text], [[visible(text, 2000), 0.5], ["", -1.0]])))
    assert shown.tags <= {"table", "thead", "tbody", "tr", "th", "td"}
    assert shown.cells[1:] == [[on_one_line(text), "0.5"], ["", "-1"]]


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_trackio_is_given_no_markup(text) -> None:
    (row,) = without_markup((["response"], [[visible(text, 2000)]]))
    assert "<" not in row["response"]
    assert "](" not in row["response"]


def test_a_table_is_from_the_best_to_the_worst(make_rollout) -> None:
    rollout = make_rollout([f"response {i}" for i in range(20)])
    rewards = rewards_of(rollout)
    rewards.scored[3] = False
    columns, rows = training_table(rollout, rewards, 5)
    assert columns == ["prompt", "response", "outcome", "score", "judge"]
    assert [row[1] for row in rows] == [
        "response 19",
        "response 14",
        "response 9",
        "response 5",
        "response 3",
    ]
    assert [row[3] for row in rows] == [19, 14, 9, 5, None]


def test_wandb_offline_holds_a_table(tmp_path, context, make_rollout, monkeypatch) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.chdir(tmp_path)
    run_of(
        Tracker(TrackerOptions(log_with="wandb", project="p", samples_every=2, samples=50), context),
        make_rollout,
    )
    folder = "wandb/offline-run-*/files/media/table/samples"
    (table, *_) = sorted(tmp_path.glob(f"{folder}/training_1_*.table.json"))
    content = json.loads(table.read_text())
    assert content["columns"] == ["prompt", "response", "outcome", "score", "judge"]
    assert [row[1] for row in content["data"]] == [visible(text, 2000) for text in reversed(WRITABLE)]


def test_trackio_offline_holds_a_table(tmp_path, context, make_rollout, monkeypatch) -> None:
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path))
    trackio = pytest.importorskip("trackio")
    run_of(
        Tracker(TrackerOptions(log_with="trackio", project="p", samples_every=2, samples=50), context),
        make_rollout,
    )
    assert trackio
    stored = "".join(path.read_bytes().decode("utf-8", "replace") for path in tmp_path.rglob("*.db*"))
    assert "samples/training" in stored
    assert "trackio.table" in stored
    assert "<script>" not in stored


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
