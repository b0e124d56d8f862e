"""Groups of equal rewards: which they are, and parts of several lengths as one."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from ppokit.plugin.reductions import as_numbers
from ppokit.plugin.types import Rewards, Rollout
from ppokit.rollout.dynamic_sampling import concat, count_groups, filter_groups
from rollouts import make_rollout


def part(groups: list[int], scores: list[float], scored: list[bool] | None = None, width: int = 1) -> tuple:
    count = len(groups)
    rollout = make_rollout([[1]] * count, [[2] * width] * count)
    rewards = Rewards(
        token_rewards=torch.rand(count, width),
        scores=torch.tensor(scores),
        breakdown={"a": torch.tensor(scores)},
        outcomes={"a": ("scored",) * count},
        scored=torch.tensor(scored or [True] * count),
        trained=torch.tensor(scored or [True] * count),
        metrics={"reward/a/x": scores[0]},
    )
    return replace(rollout, group_ids=torch.tensor(groups)), rewards


@pytest.mark.parametrize(
    ("scores", "scored", "trained"),
    [
        ([1.0, 1.0, 1.0, 0.0], [True] * 4, [False, True, False, True]),
        ([1.0, 1.0, 0.0, 1.0], [True] * 4, [True, False, True, False]),
        ([1.0, 1.0, 0.0, 0.0], [True] * 4, [True] * 4),
        # Group 7 has one scored response left, and a single one has nothing to differ from.
        ([1.0, 1.0, 0.0, 0.0], [True, True, False, True], [False, True, False, True]),
        ([0.0, 0.0, 0.0, 0.0], [False] * 4, [False] * 4),
    ],
)
def test_equal_groups(scores: list[float], scored: list[bool], trained: list[bool]) -> None:
    _, rewards = filter_groups(*part([7, 3, 7, 3], scores, scored))
    assert rewards.trained.tolist() == trained
    assert rewards.scored.tolist() == scored


def test_joining_pads_and_counts() -> None:
    first = filter_groups(*part([5, 5, 9, 9], [1.0, 1.0, 1.0, 2.0], width=2))
    second = filter_groups(*part([4, 4], [0.0, 3.0], width=3))
    rollout, rewards = concat([first, second])
    assert count_groups([first, second]) == 3
    assert count_groups([first, second], kept=True) == 2
    assert rollout.response_ids.tolist() == [[2, 2, 0]] * 4 + [[2, 2, 2]] * 2
    assert rollout.response_mask.sum(dim=1).tolist() == [2, 2, 2, 2, 3, 3]
    assert rollout.group_ids.tolist() == [5, 5, 9, 9, 4, 4]
    assert len(rollout.prompts) == len(rollout.rows) == len(rollout.prompt_ids) == 6
    assert rewards.token_rewards.shape == (6, 3)
    assert torch.equal(rewards.token_rewards[4:], second[1].token_rewards)
    assert rewards.token_rewards[:4, 2].tolist() == [0] * 4
    assert rewards.scores.tolist() == [1, 1, 1, 2, 0, 3]
    assert rewards.outcomes["a"] == ("scored",) * 6
    assert rewards.trained.tolist() == [False, False, True, True, True, True]
    assert rewards.scored.tolist() == [True] * 6
    assert as_numbers(rewards.metrics) == {
        "groups/dropped": 1.0,
        "groups/resampled": 1.0,
        "groups/trained": 2.0,
        "reward/a/x": pytest.approx(4 / 6),
    }


def test_greedy_responses_join_too() -> None:
    parts: list[tuple[Rollout, Rewards]] = []
    for width in (1, 2):
        rollout, rewards = filter_groups(*part([width, width], [1.0, 2.0], width=width))
        greedy = make_rollout([[1]], [[3] * width])
        parts.append(
            (replace(rollout, greedy=greedy), replace(rewards, greedy_returns=torch.ones(2) * width))
        )
    rollout, rewards = concat(parts)
    assert rollout.greedy is not None
    assert rollout.greedy.response_ids.tolist() == [[3, 0], [3, 3]]
    assert rewards.greedy_returns is not None
    assert rewards.greedy_returns.tolist() == [1, 1, 2, 2]
