"""The evaluator `canary`: correlations by hand, a warning where reward and ratings part, no false alarm."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from ppokit.plugin import DataError, Rollout
from ppokit.ratings.table import read_with_cells
from ppokit_evaluators.canary import Canary, CanaryOptions, RatedResponses, rated_responses
from rollouts import make_rollout

FIVE = "prompt,response,rating\n" + "".join(f"p{i},{word},{i}\n" for i, word in enumerate("abcde", 1))


COUNTS = {"reward_spearman": 5, "policy_spearman": 5}
"""How many responses a correlation is of."""


@pytest.fixture
def five(tmp_path: Path) -> Canary:
    """Five responses, rated 1 to 5."""
    (tmp_path / "five.csv").write_text(FIVE)
    return Canary(CanaryOptions(path=str(tmp_path / "five.csv")))


class View:
    """Responses of one and two tokens; a score stands on the first, a log-probability on each."""

    prompt_column = "prompt"
    training_rows: Sequence[Any] = ({"prompt": "?"},)

    def __init__(self, scores: list[float], logprobs: list[float], known: list[bool] | None = None) -> None:
        self.scores, self.numbers = scores, logprobs
        self.known = torch.tensor(known or [True] * 5)
        self.warnings: list[str] = []

    def recorded(self, prompts: Any, responses: Any, *, separator: str = "", rows: Any = None) -> Any:
        self.rated = (prompts, responses, separator, rows)
        rollout = make_rollout([[1]] * 5, [[2, 3], [2], [2, 3], [2], [2, 3]])
        return replace(rollout, group_ids=torch.zeros(5, dtype=torch.long))

    def record(self, rollout: Rollout, values: dict[str, list[float | None]]) -> None:
        self.groups, self.values = rollout.group_ids.tolist(), values

    def logprobs(self, rollout: Any) -> torch.Tensor:
        tokens = torch.tensor(self.numbers)[:, None].expand(5, 2).clone()
        return tokens.where(rollout.loss_mask, torch.tensor(-1000.0))

    def score(self, rollout: Any) -> Any:
        token_rewards = torch.zeros(5, 2)
        token_rewards[:, 0] = torch.tensor(self.scores)
        return SimpleNamespace(token_rewards=token_rewards, scored=self.known)

    def warn(self, text: str) -> None:
        self.warnings.append(text)


def test_by_hand(five: Canary) -> None:
    """1 - 6 sum d^2 / (n (n^2 - 1)): two neighbours swapped give 1 - 12 / 120; the order reversed -1.

    Without one of the two it is 1, without another 1 - 12 / 60, in the mean .88; the standard error is the
    root of 4/5 of the squares of 2 * .12 and 3 * .08.
    """
    view = View([1, 3, 2, 4, 5], [-1, -2, -3, -4, -5])
    assert five.evaluate(view, 0) == {  # type: ignore[arg-type]
        "reward_spearman": pytest.approx(0.9),
        "reward_spearman/std_error": pytest.approx(math.sqrt(0.8 * (2 * 0.12**2 + 3 * 0.08**2))),
        "reward_spearman/warning": 0,
        "policy_spearman": pytest.approx(-1),
        "policy_spearman/std_error": pytest.approx(0),
        "policy_spearman/warning": 0,
        "scored": 1,
        "warning": 0,
    }
    assert view.values["reward_spearman"] == pytest.approx([1.22, 0.42, 0.42, 1.22, 1.22])
    assert view.values["policy_spearman"] == pytest.approx([-1] * 5)
    assert view.groups == [0, 1, 2, 3, 4]  # each response counts as much, whichever prompt it is of
    assert view.rated[:3] == ([f"p{i}" for i in range(1, 6)], list("abcde"), "")
    assert view.rated[3][0] == {"prompt": "p1"}


def test_what_was_not_scored_does_not_count(five: Canary) -> None:
    """Without the second: 1, 2, 4, 5 in order. A constant has no ranks."""
    view = View([1, 99, 2, 4, 5], [-1] * 5, [True, False, True, True, True])
    assert five.evaluate(view, 0) == {  # type: ignore[arg-type]
        "reward_spearman": pytest.approx(1),
        "reward_spearman/std_error": pytest.approx(0),
        "reward_spearman/warning": 0,
        "scored": pytest.approx(0.8),
        "warning": 0,
    }
    assert view.values == {"reward_spearman": [pytest.approx(1), None, *[pytest.approx(1)] * 3]}


@pytest.mark.parametrize("scored", [0, 1])
def test_too_few_for_a_correlation(five: Canary, scored: int) -> None:
    view = View([1, 2, 3, 4, 5], [-1, -2, -3, -4, -5], [i < scored for i in range(5)])
    assert "reward_spearman" not in five.evaluate(view, 0)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("reward", "correlation", "warned"),
    [
        (2.0, 0.3, True),  # 1 / sqrt(5 - 1) = .5 is its standard error
        (2.0, 0.41, False),
        (1.0, 0.3, False),
        (0.5, -1.0, False),
        (math.nan, -1.0, False),
    ],
)
def test_a_warning_when_reward_rises_while_a_correlation_falls(
    five: Canary, reward: float, correlation: float, warned: bool
) -> None:
    five.first = {"reward_spearman": 0.9, "policy_spearman": 0.2}
    five.on_step({"reward/mean": 1.0})
    five.on_step({"reward/mean": reward})
    now = {"reward_spearman": correlation, "policy_spearman": 0.2}
    fallen = five.fallen(now, COUNTS)
    assert fallen == ["reward_spearman"] * warned
    if fallen:
        warning = five.warning(now, fallen)
        assert "rose from 1.000 to 2.000" in warning
        assert "reward_spearman fell from 0.90 to 0.30" in warning
        assert "policy_spearman" not in warning


def test_no_warning_before_a_step_has_a_reward(five: Canary) -> None:
    five.first = {"reward_spearman": 0.9}
    assert five.fallen({"reward_spearman": -1.0}, COUNTS) == []
    five.on_step({"reward/mean": math.nan})
    assert five.fallen({"reward_spearman": -1.0}, COUNTS) == []


def test_noise_is_that_of_the_responses_that_were_scored(five: Canary) -> None:
    """Of two the standard error is 1, so that a fall from 0.9 to 0 is none; of five it is 0.5."""
    five.first = {"reward_spearman": 0.9, "policy_spearman": 0.9, "mean_reward": 1.0}
    five.on_step({"reward/mean": 2.0})
    now = {"reward_spearman": 0.0, "policy_spearman": 0.0}
    assert five.fallen(now, {**COUNTS, "reward_spearman": 2}) == ["policy_spearman"]
    view = View([1, 2, 99, 99, 99], [1, 2, 3, 4, 5], [True, True, False, False, False])
    five.first["reward_spearman"], five.first["policy_spearman"] = 1.6, 1.6  # 1.6 to 1 is more than 0.5
    metrics = five.evaluate(view, 5)  # type: ignore[arg-type]
    assert [metrics[f"{name}_spearman/warning"] for name in ("reward", "policy")] == [0, 1]


def test_it_warns_through_the_view_and_goes_on_where_it_was(five: Canary, tmp_path: Path) -> None:
    five.evaluate(View([1, 2, 3, 4, 5], [1, 2, 3, 4, 5]), 0)  # type: ignore[arg-type]
    five.on_step({"reward/mean": 1.0})
    five.on_step({"reward/mean": 2.0})
    again = Canary(CanaryOptions(path=str(tmp_path / "five.csv")))
    again.load_state_dict(five.state_dict())
    for canary in (five, again):
        view = View([5, 4, 3, 2, 1], [1, 2, 3, 4, 5])
        metrics = canary.evaluate(view, 5)  # type: ignore[arg-type]
        names = ("warning", "reward_spearman/warning", "policy_spearman/warning")
        assert [metrics[name] for name in names] == [1, 1, 0]
        assert len(view.warnings) == 1


def rated(path: Path, rows: Sequence[dict[str, Any]], column: str = "prompt", **more: Any) -> RatedResponses:
    options = CanaryOptions(path=str(path), **more)
    table, cells = read_with_cells(path, options.columns, on_bad_row="fail")
    return rated_responses(options, table, cells, rows, column)


def test_prompts_that_training_has_too_are_counted_once(five: Canary) -> None:
    view = View([1, 2, 3, 4, 5], [1, 2, 3, 4, 5])
    view.training_rows = [{"prompt": "p2"}, {"prompt": [{"role": "user", "content": "p3"}]}, {"prompt": "p5"}]
    five.evaluate(view, 0)  # type: ignore[arg-type]
    five.evaluate(view, 1)  # type: ignore[arg-type]
    (warning,) = view.warnings
    assert "2 of the 5 rated responses" in warning
    assert "'p2'" in warning


def test_ratings_are_means_over_raters_and_the_first_count(tmp_path: Path) -> None:
    path = tmp_path / "r.csv"
    path.write_text("prompt,response,rating\na,x,1\nb,y,5\na,x,2\nc,z,9\n")
    first = rated(path, [{"q": "?", "rating": 2.5}], "q", limit=2)
    assert (first.prompts, first.responses, first.ratings) == (["a", "b"], ["x", "y"], [1.5, 5])
    assert first.rows == [{"q": "a", "rating": 1.0}, {"q": "b", "rating": 5.0}]


@pytest.mark.parametrize(
    ("cell", "example", "value"),
    [
        ("7", 3, 7),
        ("7.5", 3.0, 7.5),
        ("", 3, None),
        ("true", False, True),
        ('"[1, 2]"', [3], [1, 2]),
        ("7", "text", "7"),
        ("7", None, "7"),
    ],
)
def test_a_cell_is_of_the_kind_that_the_prompts_have(
    tmp_path: Path, cell: str, example: Any, value: Any
) -> None:
    path = tmp_path / "r.csv"
    path.write_text(f"prompt,response,rating,n\na,x,1,{cell}\nb,y,5,{cell}\n")
    (first, _) = rated(path, [{"prompt": "?", "n": None}, {"prompt": "?", "n": example}]).rows
    assert first == {"prompt": "a", "n": value}
    assert type(first["n"]) is type(value)


def test_ratings_that_are_all_alike_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "r.csv"
    path.write_text("prompt,response,rating\na,x,5\nb,y,5\nc,z,9\n")
    with pytest.raises(DataError, match=r"path: the first 2 rated .* have 1 different ratings"):
        rated(path, [{"prompt": "?"}], limit=2)
