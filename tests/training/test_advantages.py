"""What is trained on: who counts in a baseline, who is left out of the loss, and whitening over the rest."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from components import built
from ppokit.errors import PluginError
from ppokit.plugin.reductions import Sum
from ppokit.plugin.types import Advantages, Rewards, Rollout
from ppokit.training.advantages import estimate
from rollouts import make_rollout

ROLLOUT = make_rollout(
    [[1]] * 5,
    [[4, 5, 6], [7], [8, 9], [3, 3], [2]],
    outcomes=["finished", "finished", "truncated", "finished", "truncated"],
)
NUMBERS = torch.tensor(
    [[1.0, 2.0, 3.0], [4.0, 9.0, 9.0], [5.0, 6.0, 9.0], [-2.0, -4.0, 9.0], [8.0, 9.0, 9.0]]
)


class Fixed:
    """Returns fixed numbers for the responses that it is given, and keeps what it was given."""

    def __init__(self, **changes: Any) -> None:
        self.changes = changes
        self.seen: list[tuple[Rollout, Rewards]] = []

    def estimate(self, rollout: Rollout, rewards: Rewards) -> Advantages:
        self.seen.append((rollout, rewards))
        rows = [int(i.removeprefix("sample-")) for i in rollout.ids]
        return Advantages(**{"advantages": NUMBERS[rows], "returns": NUMBERS[rows] * 10, **self.changes})


def rewards(trained: list[bool] | None = None) -> Rewards:
    return Rewards(
        token_rewards=torch.arange(15.0).reshape(5, 3),
        scores=torch.arange(5.0),
        breakdown={"a": torch.arange(5.0)},
        outcomes={"a": ("scored",) * 5},
        scored=torch.tensor([True] * 5),
        trained=torch.tensor(trained or [True] * 5),
        greedy_returns=torch.arange(5.0) * 2,
    )


def run(
    estimator: Any, given: Rewards, *, rollout: Rollout = ROLLOUT, needs: Any = (), **settings: Any
) -> Advantages:
    where = "advantages 'fixed' (plugin acme 1.0; recipe: advantages.use)"
    chosen = built("advantages", estimator, "fixed", needs, where=where, **settings)
    return estimate(chosen, rollout, given)


def test_padding_is_0_and_the_rest_is_as_estimated() -> None:
    result = run(Fixed(), rewards())
    assert result.advantages.tolist() == [[1, 2, 3], [4, 0, 0], [5, 6, 0], [-2, -4, 0], [8, 0, 0]]
    assert result.returns is not None
    assert result.returns.tolist() == [[10, 20, 30], [40, 0, 0], [50, 60, 0], [-20, -40, 0], [80, 0, 0]]
    assert result.trained is not None
    assert result.trained.tolist() == [True] * 5


def test_the_estimator_sees_only_what_counts() -> None:
    estimator = Fixed()
    given = rewards([True, False, True, False, True])
    result = run(estimator, given)
    rollout, seen = estimator.seen[0]
    assert rollout.ids == ["sample-0", "sample-2", "sample-4"]
    assert seen.scores.tolist() == [0, 2, 4]
    assert seen.greedy_returns is not None
    assert seen.greedy_returns.tolist() == [0, 4, 8]
    assert seen.breakdown["a"].tolist() == [0, 2, 4]
    assert seen.outcomes["a"] == ("scored",) * 3
    assert result.trained is not None
    assert result.trained.tolist() == [True, False, True, False, True]
    assert result.advantages.tolist() == [[1, 2, 3], [0, 0, 0], [5, 6, 0], [0, 0, 0], [8, 0, 0]]


def test_truncated_responses_count_in_the_estimate_and_not_in_the_loss() -> None:
    estimator = Fixed()
    result = run(estimator, rewards(), mask_truncated=True)
    assert len(estimator.seen[0][0]) == 5
    assert result.trained is not None
    assert result.trained.tolist() == [True, True, False, True, False]
    assert result.advantages.tolist() == [[1, 2, 3], [4, 0, 0], [0, 0, 0], [-2, -4, 0], [0, 0, 0]]
    assert result.metrics["advantages/masked_truncated"] == pytest.approx(2 / 5)


def test_an_estimator_may_leave_responses_out() -> None:
    result = run(Fixed(trained=torch.tensor([True, False, True, True, False])), rewards())
    assert result.trained is not None
    assert result.trained.tolist() == [True, False, True, True, False]
    assert result.advantages[1].tolist() == [0, 0, 0]


@pytest.mark.parametrize(("variance", "squares"), [("sample", 1 / 5), ("population", 1 / 6)])
def test_whitening_is_over_the_tokens_trained_on(variance: Any, squares: float) -> None:
    """Real tokens of responses that are not truncated: 1, 2, 3, 4, -2, -4, whose mean is 2/3."""
    result = run(Fixed(), rewards(), whiten="batch", mask_truncated=True, whiten_variance=variance)
    numbers = [1.0, 2.0, 3.0, 4.0, -2.0, -4.0]
    mean = 4 / 6
    deviation = (sum((n - mean) ** 2 for n in numbers) * squares) ** 0.5
    whitened = result.advantages[torch.tensor([0, 1, 3])][
        torch.tensor([[True, True, True], [True, False, False], [True, True, False]])
    ]
    assert whitened.tolist() == pytest.approx([(n - mean) / deviation for n in numbers])
    assert result.advantages[2].tolist() == [0, 0, 0]


def test_minibatch_whitening_is_left_to_the_update() -> None:
    assert torch.equal(
        run(Fixed(), rewards(), whiten="minibatch").advantages, run(Fixed(), rewards()).advantages
    )


def test_nothing_counts() -> None:
    result = run(Fixed(), rewards([False] * 5))
    assert result.advantages.abs().sum() == 0
    assert result.trained is not None
    assert not result.trained.any()


@pytest.mark.parametrize(
    ("changes", "got"),
    [
        ({"advantages": torch.zeros(5)}, r"advantages of shape \[5\]; expected \[5, 3\]"),
        ({"returns": torch.zeros(5, 4)}, r"returns of shape \[5, 4\]; expected \[5, 3\]"),
        ({"advantages": NUMBERS / 0}, "advantages that are not finite for the samples sample-0"),
        (
            {"trained": torch.ones(4, dtype=torch.bool)},
            r"trained of shape \[4\] and torch.bool; expected \[5\]",
        ),
        ({"trained": torch.ones(5)}, r"trained of shape \[5\] and torch.float32; expected \[5\]"),
    ],
)
def test_a_broken_estimator_is_named(changes: dict[str, Tensor], got: str) -> None:
    with pytest.raises(PluginError, match=rf"^advantages 'fixed' \(plugin acme.*{got}"):
        run(Fixed(**changes), rewards())


def test_the_estimator_sees_what_it_named_and_nothing_that_others_did() -> None:
    numbers = torch.zeros(ROLLOUT.response_ids.shape)
    rollout = replace(ROLLOUT, values=numbers, ref_logprobs=numbers, old_logprobs=numbers)
    estimator = Fixed()
    result = run(estimator, rewards(), rollout=rollout, needs={"ref_logprobs"})
    seen = estimator.seen[0][0]
    assert seen.ref_logprobs is not None
    assert seen.values is seen.old_logprobs is seen.greedy is None
    assert "value/explained_variance" in result.metrics, "measured by the core all the same"


@pytest.mark.parametrize("error", [ValueError("no rewards"), KeyError("x"), SystemExit(0)])
def test_an_error_names_the_estimator(error: BaseException) -> None:
    class Broken:
        def estimate(self, rollout: Rollout, rewards: Rewards) -> Advantages:
            raise error

    with pytest.raises(
        PluginError, match=r"advantages 'fixed' \(plugin acme 1.0; recipe: advantages.use\): estimate failed"
    ):
        run(Broken(), rewards())


@pytest.mark.parametrize("metrics", [{"reward/mean": 77.0}, {"step": 77.0}, {"a": "b"}, {"a": torch.ones(2)}])
def test_metrics_of_an_estimator_are_checked(metrics: Any) -> None:
    with pytest.raises(PluginError, match=r"advantages 'fixed' \(plugin acme 1.0"):
        run(Fixed(metrics=metrics), rewards())
    assert run(Fixed(metrics={"acme/x": Sum(4)}), rewards()).metrics["acme/x"] == 4.0


def test_a_gradient_ends_here() -> None:
    """Else the second pass over the step would go back through the estimator."""
    numbers = NUMBERS.clone().requires_grad_()
    result = run(Fixed(advantages=numbers * 1, returns=numbers * 10), rewards())
    assert not result.advantages.requires_grad
    assert result.returns is not None
    assert not result.returns.requires_grad
