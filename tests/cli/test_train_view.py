"""What the terminal shows of a run."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from hostile_texts import HOSTILE
from ppokit.cli.train_view import Display


@pytest.mark.parametrize("kept", [True, False])
def test_the_summary_names_the_best_policy_where_one_was_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], kept: bool
) -> None:
    if kept:
        (tmp_path / "policy-best").mkdir()
        (tmp_path / "policy-best" / "best.json").write_text(json.dumps({"step": 20, "value": 0.75}))
    evaluation = SimpleNamespace(best="eval/rewards/mean")
    trainer: Any = SimpleNamespace(step=30, settings=SimpleNamespace(evaluation=evaluation))
    display = Display(steps=30, sample_every=0)
    display._folder = tmp_path
    display.summarize(trainer)
    lines = capsys.readouterr().out.splitlines()
    assert f"policy   {tmp_path / 'policy'}" in lines
    best = f"best     {tmp_path / 'policy-best'} (step 20, eval/rewards/mean 0.750)"
    assert (best in lines) == kept


@pytest.mark.parametrize(
    ("means", "expected"),
    [
        ([math.nan, math.nan], "no response was scored in 2 steps: nothing was learned from rewards"),
        ([math.nan], "no response was scored in 1 step: nothing was learned from rewards"),
        ([math.nan, 1.0, 2.0, math.nan], "reward 1.000 -> 2.000 in 4 steps"),
    ],
)
def test_the_summary_is_of_steps_in_which_something_was_scored(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], means: list[float], expected: str
) -> None:
    display = Display(steps=len(means), sample_every=0)
    display._folder = tmp_path
    for step, mean in enumerate(means, 1):
        metrics = {"reward/mean": mean, "response/length": 3.0, "time/step_s": 1.0}
        display.on_step(step, None, None, metrics)  # type: ignore[arg-type]
    trainer: Any = SimpleNamespace(step=len(means), settings=SimpleNamespace(evaluation=None))
    display.summarize(trainer)
    assert expected in capsys.readouterr().out.splitlines()


def test_an_evaluation_shows_the_best_metric_first_and_how_far_each_has_come(
    capsys: pytest.CaptureFixture[str],
) -> None:
    display = Display(steps=30, sample_every=0)
    display._best = "eval/metric/rougeL"
    gains = {"gain": -0.25, "gain_low": -0.5, "gain_high": 0.0}
    metrics = {
        "eval/greedy/kl": 0.1,  # of every evaluation
        "eval/rewards/mean": 1.5,
        **{f"eval/rewards/mean/{name}": value for name, value in gains.items()},
        "eval/rewards/scored": 1.0,
        "eval/metric/rougeL": 0.5,
        "eval/mine/gain": 2.0,  # an evaluator's own
        "time/evaluation_s": 3.0,
    }
    display.on_evaluation(step=5, metrics=metrics)
    assert capsys.readouterr().out.splitlines() == [
        "step  5/30  eval/metric/rougeL 0.500  eval/rewards/mean 1.500 (-0.250)  eval/rewards/scored 1.000"
        "  eval/mine/gain 2.000  and 1 more"
    ]


def test_what_a_model_wrote_is_not_obeyed_by_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    """Names of metrics, causes of failures and texts: no escape sequence and nothing that reorders a line."""
    display = Display(steps=3, sample_every=1)
    for text in HOSTILE.values():
        display.on_warning(1, f"the reward 'x' failed: {text}")
        display.on_evaluation(1, {f"eval/{text}": 0.5})
        display.compare([text], [text], [text])
    out = capsys.readouterr().out
    assert "failed: <script>window.hit = 1</script>" in out
    assert all(character.isprintable() or character == "\n" for character in out)
