"""The canary: correlations by hand, a warning when reward and ratings part ways, and no false alarm."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from ppokit.config.settings import CanarySettings
from ppokit.errors import DataError
from ppokit.evaluation.canary import Canary, HeldOut, read_held_out
from ppokit.plugin.types import Rewards, Rollout
from test_generate import make_rollout

RATINGS = [1.0, 2.0, 3.0, 4.0, 5.0]


def canary(scores: list[float], logprobs: list[float], scored: list[bool] | None = None) -> Canary:
    """Five responses of one and two tokens; a score stands on the last, a log-probability on each."""
    rollout = make_rollout([[1]] * 5, [[2, 3], [2], [2, 3], [2], [2, 3]])
    tokens = torch.tensor(logprobs)[:, None].expand(5, 2).clone()
    tokens[1, 1] = tokens[3, 1] = -1000.0  # padding
    found = Rollout(**{**vars(rollout), "old_logprobs": tokens})
    token_rewards = torch.zeros(5, 2)
    token_rewards[:, 0] = torch.tensor(scores)
    mask = torch.tensor(scored or [True] * 5)
    rewards = Rewards(token_rewards, torch.zeros(5), {}, {}, mask, mask)
    held_out = HeldOut(["p"] * 5, list("abcde"), torch.tensor(RATINGS), [{}] * 5, "")
    return Canary(held_out, lambda rated: found, lambda given: rewards)


def test_by_hand() -> None:
    """1 - 6 sum d^2 / (n (n^2 - 1)): two neighbours swapped give 1 - 12 / 120; the order reversed -1."""
    found = canary([1, 3, 2, 4, 5], [-1, -2, -3, -4, -5]).measure()
    assert found["canary/reward_spearman"] == pytest.approx(0.9)
    assert found["canary/policy_spearman"] == pytest.approx(-1)
    assert found["canary/scored"] == 1


def test_what_was_not_scored_does_not_count() -> None:
    """Without the second: 1, 2, 4, 5 in order."""
    found = canary([1, 99, 2, 4, 5], [-1] * 5, [True, False, True, True, True]).measure()
    assert found["canary/reward_spearman"] == pytest.approx(1)
    assert found["canary/scored"] == pytest.approx(0.8)
    assert "canary/policy_spearman" not in found, "a constant has no ranks"


@pytest.mark.parametrize("scored", [0, 1])
def test_too_few_for_a_correlation(scored: int) -> None:
    found = canary(RATINGS, [-1, -2, -3, -4, -5], [place < scored for place in range(5)]).measure()
    assert "canary/reward_spearman" not in found


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
    reward: float, correlation: float, warned: bool
) -> None:
    bird = canary(RATINGS, RATINGS)
    first = {"reward/mean": 1.0, "canary/reward_spearman": 0.9, "canary/policy_spearman": 0.2}
    now = {"reward/mean": reward, "canary/reward_spearman": correlation, "canary/policy_spearman": 0.2}
    told = bird.warning(first, now)
    assert (told is not None) == warned
    if told is not None:
        assert "rose from 1.000 to 2.000" in told
        assert "canary/reward_spearman fell from 0.90 to 0.30" in told
        assert "policy_spearman" not in told


@pytest.mark.parametrize("first", [None, math.nan])
def test_no_warning_where_the_first_step_had_no_reward(first: float | None) -> None:
    """metrics.jsonl holds null for a number that is not finite."""
    before = {"reward/mean": first, "canary/reward_spearman": 0.9}
    assert (
        canary(RATINGS, RATINGS).warning(before, {"reward/mean": 1.0, "canary/reward_spearman": -1.0}) is None
    )


def settings(path: Path, **more: Any) -> CanarySettings:
    return CanarySettings(path=str(path), **more)


def test_ratings_are_means_over_raters_and_the_first_count(tmp_path: Path) -> None:
    path = tmp_path / "r.csv"
    path.write_text("prompt,response,rating\na,x,1\nb,y,5\na,x,2\nc,z,9\n")
    found = read_held_out(settings(path, limit=2), [{"q": "?", "rating": 2.5}], "q")
    assert (found.prompts, found.responses, found.ratings.tolist()) == (["a", "b"], ["x", "y"], [1.5, 5])
    assert found.rows == [{"q": "a", "rating": 1.0}, {"q": "b", "rating": 5.0}]


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
    prompts = [{"prompt": "?", "n": None}, {"prompt": "?", "n": example}]
    rows = read_held_out(settings(path), prompts, "prompt").rows
    assert rows[0] == {"prompt": "a", "n": value}
    assert type(rows[0]["n"]) is type(value)


def test_ratings_that_are_all_alike_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "r.csv"
    path.write_text("prompt,response,rating\na,x,5\nb,y,5\nc,z,9\n")
    with pytest.raises(DataError, match=r"canary.path: the first 2 rated .* have 1 different ratings"):
        read_held_out(settings(path, limit=2), [{"prompt": "?"}], "prompt")
