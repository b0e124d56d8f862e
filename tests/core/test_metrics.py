"""Metrics by hand: over real tokens, over responses that are trained on."""

from __future__ import annotations

import math
import time
from dataclasses import replace

import pytest
import torch

from ppokit.plugin.types import Advantages, Rewards
from ppokit.training.metrics import Clock, advantage_metrics, peak_gb, rollout_metrics, value_metrics
from test_generate import make_rollout

MASK = torch.tensor([[True, True], [True, False]])


def test_explained_variance_by_hand() -> None:
    """Returns 1, 2, 3: variance 2/3. Errors 0, 1, -1: variance 2/3. Nothing explained."""
    returns = torch.tensor([[1.0, 2.0], [3.0, 99.0]])
    found = value_metrics(torch.tensor([[1.0, 1.0], [4.0, math.nan]]), returns, MASK)
    assert found["value/explained_variance"] == pytest.approx(0.0, abs=1e-6)
    assert found["value/mean"] == pytest.approx(2.0)
    assert found["value/return_mean"] == pytest.approx(2.0)
    perfect = value_metrics(returns + 5, returns, MASK)  # a constant offset is no variance
    assert perfect["value/explained_variance"] == pytest.approx(1.0)
    nothing = value_metrics(returns, torch.full((2, 2), 3.0), MASK)  # to foretell
    assert nothing["value/explained_variance"] == 0.0
    # Errors 0.5, 0, -0.5: variance 1/6, a quarter of 2/3.
    part = value_metrics(torch.tensor([[0.5, 2.0], [3.5, 0.0]]), returns, MASK)
    assert part["value/explained_variance"] == pytest.approx(0.75)


def test_advantages_by_hand() -> None:
    found = advantage_metrics(
        Advantages(torch.tensor([[1.0, 2.0], [6.0, 99.0]]), metrics={"gae/x": 4.0}), MASK
    )
    assert found == {
        "advantages/mean": pytest.approx(3.0),
        "advantages/std": pytest.approx(math.sqrt(14 / 3)),
        "gae/x": 4.0,
    }


def rewards(**changes: object) -> Rewards:
    made = Rewards(
        token_rewards=torch.zeros(2, 2),
        scores=torch.tensor([1.0, 5.0]),
        breakdown={"a": torch.tensor([2.0, math.nan])},
        outcomes={"a": ("scored", "abstained")},
        scored=torch.tensor([True, True]),
        trained=torch.tensor([True, True]),
        metrics={"reward/a/abstained": 0.5},
    )
    return replace(made, **changes)  # type: ignore[arg-type]


def test_a_rollout_by_hand() -> None:
    rollout = make_rollout([[1], [2]], [[4, 5], [6]], finished=torch.tensor([True, False]))
    found = rollout_metrics(rollout, rewards())
    assert found == {
        "reward/mean": 3.0,
        "response/length": 1.5,
        "response/finished": 0.5,
        "reward/a": 2.0,
        "reward/a/abstained": 0.5,
    }


def test_what_is_excluded_has_no_part_in_the_mean() -> None:
    rollout = make_rollout([[1], [2]], [[4, 5], [6]])
    found = rollout_metrics(rollout, rewards(scored=torch.tensor([True, False])))
    assert (found["reward/mean"], found["reward/excluded"]) == (1.0, 0.5)
    none = rollout_metrics(rollout, rewards(scored=torch.tensor([False, False])))
    assert math.isnan(none["reward/mean"])


def test_kl_names_its_estimator_and_leaves_out_padding() -> None:
    rollout = make_rollout(
        [[1], [2]],
        [[4, 5], [6]],
        old_logprobs=torch.tensor([[-1.0, -1.0], [-1.0, 50.0]]),
        ref_logprobs=torch.tensor([[-1.0, -2.0], [-3.0, -50.0]]),
    )
    found = rollout_metrics(rollout, rewards())
    assert found["kl/k1"] == pytest.approx(1.0)  # (0 + 1 + 2) / 3
    k3 = [math.exp(-x) - 1 + x for x in (0, 1, 2)]
    assert found["kl/k3"] == pytest.approx(sum(k3) / 3, rel=1e-5)


def test_the_clock_adds_up_and_starts_over() -> None:
    clock = Clock(torch.device("cpu"))
    for _ in range(2):
        with clock.phase("a"):
            time.sleep(0.01)

    def fails() -> None:
        with clock.phase("b"):
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fails()
    taken = clock.take()
    assert set(taken) == {"a", "b"}
    assert 0.02 <= taken["a"] < 1
    assert clock.take() == {}


def test_peak_memory_is_of_this_process() -> None:
    assert 0.05 < peak_gb(torch.device("cpu")) < 1000
