"""The evaluator `rewards`: pass@k and standard error by hand."""

from __future__ import annotations

import itertools
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from ppokit.plugin import CheckContext
from ppokit_evaluators.rewards import HeldOutRewards, check, pass_at, standard_error


@pytest.mark.parametrize(("n", "c", "k"), list(itertools.product([4], [0, 1, 2, 4], [1, 2, 4])))
def test_pass_at_is_the_share_of_all_ways_to_draw_k(n: int, c: int, k: int) -> None:
    passed = [True] * c + [False] * (n - c)
    draws = list(itertools.combinations(passed, k))
    assert pass_at(k, [passed]) == pytest.approx(sum(map(any, draws)) / len(draws))


def test_pass_at_is_a_mean_over_prompts_with_enough_responses() -> None:
    assert pass_at(2, [[True, False], [False, False], [True]]) == pytest.approx(0.5)
    assert pass_at(3, [[True]]) != pass_at(3, [[True]]), "NaN where no prompt has enough"


def test_standard_error_by_hand() -> None:
    """Deviations -1, 0, 1: variance 1, divided by sqrt(3)."""
    assert standard_error([1, 2, 3]) == pytest.approx(3**-0.5)
    assert standard_error([1]) != standard_error([1])


class View:
    """Two prompts with two responses each; the last response is not scored."""

    def __init__(self, known: list[bool], *, scales_move: bool = False) -> None:
        self.known, self.scales_move = known, scales_move
        self.asked: list[Any] = []

    def generate(self, prompts: None = None, *, n: int | None = None, rows: None = None) -> Any:
        self.asked.append(n)
        return SimpleNamespace(group_ids=torch.tensor([0, 0, 1, 1]))

    def record(self, rollout: Any, values: dict[str, list[float | None]]) -> None:
        self.recorded = values

    def score(self, rollout: Any) -> Any:
        scores = torch.tensor([1.0, 3.0, 5.0, 99.0])
        raw = scores.where(torch.tensor(self.known), torch.tensor(torch.nan))
        given: dict[str, Any] = {
            "token_rewards": torch.zeros(4, 1),
            "scores": scores,
            "breakdown": {"judge": raw},
            "scored": torch.tensor(self.known),
        }
        return SimpleNamespace(**given)


def test_metrics() -> None:
    view = View([True, True, True, False])
    options = HeldOutRewards(samples=2, pass_at=(1, 2), threshold=3)
    metrics = options.evaluate(view, 0)  # type: ignore[arg-type]
    assert view.asked == [2]
    assert view.recorded == {
        "mean": [1.0, 3.0, 5.0, None],
        "score/judge": [1.0, 3.0, 5.0, None],
        "pass@1": [0.5, 0.5, 1.0, 1.0],  # of each response's prompt
        "pass@2": [1.0, 1.0, None, None],
    }
    assert metrics == {
        "scored": 0.75,
        "mean": pytest.approx(3.5),  # of 2 and 5
        "std_error": pytest.approx(1.5),  # deviations of 1.5: variance 4.5, over 2
        "pass@1": pytest.approx(0.75),  # of 1/2 and 1
        "pass@2": pytest.approx(1.0),  # the second prompt has one response
    }


def test_sums_of_scores_that_are_scaled_anew_at_every_step_are_left_out() -> None:
    """They would rise where nothing is learned; scores are raw."""
    view = View([True] * 4, scales_move=True)
    options = HeldOutRewards(samples=2, pass_at=(1,), threshold=3)
    (problem,) = check(options, CheckContext(("prompt",), scaled=("rewards[1].scale",)))
    assert "pass_at: rewards[1].scale gives the sum of the rewards another unit" in problem
    assert list(check(HeldOutRewards(), CheckContext(("prompt",), scaled=("rewards[1].scale",)))) == []
    assert options.evaluate(view, 0) == {"scored": 1}  # type: ignore[arg-type]
    assert view.recorded == {"score/judge": [1.0, 3.0, 5.0, 99.0]}


def test_nothing_scored() -> None:
    assert HeldOutRewards().evaluate(View([False] * 4), 0) == {"scored": 0}  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pass_at": (1,)}, "pass_at needs threshold"),
        ({"threshold": 1.0}, "does nothing without pass_at"),
        (
            {"pass_at": (4,), "threshold": 1.0, "samples": 2},
            "pass_at has 4, more than the 2 samples per prompt",
        ),
    ],
)
def test_options_that_contradict_each_other(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        HeldOutRewards(**options)
