"""How a run ended stands in its folder, until it goes on, and on its page."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from ppokit import PPOTrainer, Recipe
from ppokit.errors import Interrupted, NonFiniteError
from ppokit.plugin import hookimpl

RecipeDict = Callable[..., dict[str, Any]]


class Ending:
    """Ends a run after a step, and hears how it ended."""

    def __init__(self, step: int, error: BaseException) -> None:
        self.step, self.error = step, error
        self.heard: list[str | None] = []

    @hookimpl
    def on_step(self, step: int, metrics: Mapping[str, float]) -> None:
        if step == self.step:
            raise self.error

    @hookimpl
    def on_run_end(self, error: str | None) -> None:
        self.heard.append(error)


def recipe(recipe_dict: RecipeDict, folder: Path) -> Recipe:
    run = {"steps": 3, "out": str(folder), "sample_every": 0, "checkpoint_every": 1, "report": True}
    return Recipe.from_dict(recipe_dict(run=run))


def test_a_signal_and_what_comes_after_it(recipe_dict: RecipeDict, tmp_path: Path) -> None:
    """The checkpoint's page was written before the signal came: its end is written anew."""
    run, ending = tmp_path / "run", Ending(2, Interrupted(2))
    with pytest.raises(Interrupted):
        PPOTrainer(recipe(recipe_dict, run), observers=[ending]).train()
    assert ending.heard == ["stopped by SIGINT"]
    assert json.loads((run / "end.json").read_text()) == {"step": 2, "stopped_by": "SIGINT", "error": None}
    assert "2 of 3 steps, stopped by SIGINT after step 2" in (run / "report.html").read_text()
    trainer = PPOTrainer(recipe(recipe_dict, run), resume=run)
    assert (run / "end.json").exists()  # it may never begin
    trainer.collect(next(trainer.prompts))
    assert not (run / "end.json").exists()
    trainer.end()
    assert json.loads((run / "end.json").read_text()) == {"step": 2, "stopped_by": None, "error": None}


def test_an_error(recipe_dict: RecipeDict, tmp_path: Path) -> None:
    run = tmp_path / "run"
    with pytest.raises(Exception, match="nobody home"):
        PPOTrainer(recipe(recipe_dict, run), observers=[Ending(2, OSError("nobody home"))]).train()
    end = json.loads((run / "end.json").read_text())
    assert (end["step"], end["stopped_by"]) == (2, None)
    assert "nobody home" in end["error"]
    page = (run / "report.html").read_text()
    assert "2 of 3 steps, failed after step 2" in page
    assert "nobody home" in page


def test_a_first_step_whose_loss_is_not_finite(
    recipe_dict: RecipeDict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its samples are what there is to look at: the page is written, and says that no step was done."""
    run = tmp_path / "run"
    trainer = PPOTrainer(recipe(recipe_dict, run))

    def broken(*arguments: Any, **more: Any) -> Any:
        raise NonFiniteError("the loss is nan")

    monkeypatch.setattr(trainer.components.updater, "update", broken)
    with pytest.raises(NonFiniteError):
        trainer.train()
    page = (run / "report.html").read_text()
    assert "0 of 3 steps, failed after step 0" in page
    assert "Step 1 failed: its samples are here" in page


def test_a_run_that_is_done_says_nothing_more(recipe_dict: RecipeDict, tmp_path: Path) -> None:
    run = tmp_path / "run"
    PPOTrainer(recipe(recipe_dict, run)).train()
    assert json.loads((run / "end.json").read_text()) == {"step": 3, "stopped_by": None, "error": None}
    assert "3 of 3 steps, finished" in (run / "report.html").read_text()
