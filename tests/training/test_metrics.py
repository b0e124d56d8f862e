"""Metrics by hand: over real tokens, over responses that are trained on."""

from __future__ import annotations

import math
import time
from dataclasses import replace

import pytest
import torch

from ppokit.errors import PluginError
from ppokit.plugin.reductions import Max, Mean, Sum
from ppokit.plugin.types import Advantages, Rewards
from ppokit.training.contracts import component_metrics
from ppokit.training.metrics import (
    Clock,
    advantage_metrics,
    peak_gb,
    rollout_metrics,
    value_metrics,
)
from rollouts import make_rollout

MASK = torch.tensor([[True, True], [True, False]])


def test_explained_variance_by_hand() -> None:
    """Returns 1, 2, 3: variance 2/3. Errors 0, 1, -1: variance 2/3. Nothing explained."""
    returns = torch.tensor([[1.0, 2.0], [3.0, 99.0]])
    metrics = value_metrics(torch.tensor([[1.0, 1.0], [4.0, math.nan]]), returns, MASK)
    assert metrics["value/explained_variance"] == pytest.approx(0.0, abs=1e-6)
    assert metrics["value/mean"] == pytest.approx(2.0)
    assert metrics["value/return_mean"] == pytest.approx(2.0)
    perfect = value_metrics(returns + 5, returns, MASK)  # a constant offset is no variance
    assert perfect["value/explained_variance"] == pytest.approx(1.0)
    nothing = value_metrics(returns, torch.full((2, 2), 3.0), MASK)  # to predict
    assert nothing["value/explained_variance"] == 0.0
    # Errors 0.5, 0, -0.5: variance 1/6, a quarter of 2/3.
    part = value_metrics(torch.tensor([[0.5, 2.0], [3.5, 0.0]]), returns, MASK)
    assert part["value/explained_variance"] == pytest.approx(0.75)


def test_advantages_by_hand() -> None:
    metrics = advantage_metrics(Advantages(torch.tensor([[1.0, 2.0], [6.0, 99.0]])), MASK)
    assert metrics == {
        "advantages/mean": pytest.approx(3.0),
        "advantages/std": pytest.approx(math.sqrt(14 / 3)),
    }


def rewards(**changes: object) -> Rewards:
    defaults = Rewards(
        token_rewards=torch.zeros(2, 2),
        scores=torch.tensor([1.0, 5.0]),
        breakdown={"a": torch.tensor([2.0, math.nan])},
        outcomes={"a": ("scored", "abstained")},
        scored=torch.tensor([True, True]),
        trained=torch.tensor([True, True]),
        metrics={"reward/a/abstained": 0.5},
    )
    return replace(defaults, **changes)  # type: ignore[arg-type]


def test_a_rollout_by_hand() -> None:
    rollout = make_rollout([[1], [2]], [[4, 5], [6]], outcomes=["finished", "truncated"])
    metrics = rollout_metrics(rollout, rewards())
    assert metrics == {
        "reward/mean": 3.0,
        "response/length": 1.5,
        "response/finished": 0.5,
        "reward/a": 2.0,
        "reward/a/abstained": 0.5,
        "reward/a/scored": 0.5,
    }


def test_what_is_excluded_has_no_part_in_the_mean() -> None:
    rollout = make_rollout([[1], [2]], [[4, 5], [6]])
    metrics = rollout_metrics(rollout, rewards(scored=torch.tensor([True, False])))
    assert (metrics["reward/mean"], metrics["reward/excluded"]) == (1.0, 0.5)
    none = rollout_metrics(rollout, rewards(scored=torch.tensor([False, False])))
    assert math.isnan(none["reward/mean"])


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


class TestComponentMetrics:
    WHERE = "reward 'polite' (plugin acme 1.0; recipe: rewards[0].use, r.yaml line 3)"

    def test_a_plain_number_is_a_mean_over_the_responses(self) -> None:
        result = component_metrics({"a": 1, "b": torch.tensor([2.0]), "c": True}, "x", responses=3)
        assert result == {"a": Mean(1.0, 3.0), "b": Mean(2.0, 3.0), "c": Mean(1.0, 3.0)}
        assert all(type(metric.value) is float for metric in result.values())
        assert component_metrics({"n": Sum(2), "m": Max(3), "k": Mean(4, 5)}, "x", responses=3) == {
            "n": Sum(2.0),
            "m": Max(3.0),
            "k": Mean(4.0, 5.0),
        }

    @pytest.mark.parametrize(
        "value",
        ["3", b"3", None, math.nan, math.inf, torch.zeros(2), [1.0], 1j, Sum(math.nan), Mean(1.0, -1.0)],
    )
    def test_what_is_not_one_finite_number_names_the_component(self, value: object) -> None:
        with pytest.raises(PluginError, match=r"reward 'polite' .*the metric 'speed' as .*one finite number"):
            component_metrics({"speed": value}, self.WHERE, responses=2)

    @pytest.mark.parametrize("name", ["step", "reward/mean", "loss/x", "kl/k1", "policy/entropy", "time/x_s"])
    def test_core_names_are_refused(self, name: str) -> None:
        with pytest.raises(PluginError, match=rf"reward 'polite' .*{name}.*ppokit's own"):
            component_metrics({name: 1.0}, self.WHERE, responses=2)

    def test_taken_names_are_refused_with_their_prefix(self) -> None:
        taken = {"reward/polite/abstained"}
        assert component_metrics({"step": 1.0}, "x", responses=1, prefix="reward/polite/", taken=taken)
        with pytest.raises(PluginError, match="'reward/polite/abstained', a name that is taken"):
            component_metrics({"abstained": 1.0}, "x", responses=1, prefix="reward/polite/", taken=taken)

    @pytest.mark.parametrize("metrics", [None, 3.0, [("a", 1.0)], {1: 2.0}, {"": 1.0}])
    def test_what_is_no_mapping_of_texts(self, metrics: object) -> None:
        with pytest.raises(PluginError, match="reward 'polite'"):
            component_metrics(metrics, self.WHERE, responses=2)
