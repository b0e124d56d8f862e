"""The KL penalty and Ziegler's controller, against the reference numbers."""

from __future__ import annotations

import json
import math

import pytest
import torch
from pydantic import ValidationError

from ppokit_rewards.kl_penalty import KLPenalty, KLPenaltyOptions, adapted, kl_penalty


def test_reference_token_rewards() -> None:
    """beta .5, KL -.1 per token; the score of 1 at the end is the core's to add."""
    logprobs, ref = torch.full((1, 3), -1.1), torch.full((1, 3), -1.0)
    scores = kl_penalty(logprobs, ref, torch.ones(1, 3, dtype=torch.bool), coefficient=0.5, estimator="k1")
    torch.testing.assert_close(scores, torch.tensor([[0.05, 0.05, 0.05]]))
    scores[0, -1] += 1
    torch.testing.assert_close(scores, torch.tensor([[0.05, 0.05, 1.05]]))


@pytest.mark.parametrize(
    ("estimator", "expected"), [("k1", [-1.0, 14.0]), ("k2", [0.5, 98.0]), ("k3", [math.e - 2, 13.0])]
)
def test_estimators_and_padding(estimator, expected) -> None:
    logprobs, ref = torch.tensor([[-1.0, -1.0, math.nan]]), torch.tensor([[0.0, -15.0, math.inf]])
    mask = torch.tensor([[True, True, False]])
    scores = kl_penalty(logprobs, ref, mask, coefficient=2.0, estimator=estimator)
    torch.testing.assert_close(scores, torch.tensor([[-2 * expected[0], -2 * expected[1], 0.0]]))


def test_reference_adaptive_kl() -> None:
    assert adapted(0.2, 0.2, target=0.1, horizon=100, responses=10) == pytest.approx(0.204)


@pytest.mark.parametrize(
    ("kl", "expected"), [(0.0, 0.196), (0.1, 0.2), (0.11, 0.202), (-5.0, 0.196), (99.0, 0.204)]
)
def test_the_controller_is_proportional_and_clipped_at_a_fifth(kl, expected) -> None:
    assert adapted(0.2, kl, target=0.1, horizon=100, responses=10) == pytest.approx(expected)


def a_rollout(make_rollout, kl_sum: float, count: int = 10):
    """Every response's k1 adds up to `kl_sum` over its two real tokens; padding holds NaN."""
    logprobs = torch.tensor([[0.75 * kl_sum, 0.25 * kl_sum, math.nan]]).repeat(count, 1)
    mask = torch.tensor([[True, True, False]]).repeat(count, 1)
    return make_rollout(["x"] * count, mask=mask, old_logprobs=logprobs, ref_logprobs=torch.zeros(count, 3))


@pytest.mark.parametrize("estimator", ["k1", "k2", "k3"])
def test_observing_steers_by_the_sum_of_k1_over_each_response(context, make_rollout, estimator) -> None:
    options = KLPenaltyOptions(coefficient=0.2, target=0.1, horizon=100, estimator=estimator)
    penalty = KLPenalty(options, context)
    penalty.on_step(a_rollout(make_rollout, 0.2))
    assert penalty.coefficient == pytest.approx(0.204)
    penalty = KLPenalty(options, context)
    penalty.on_step(a_rollout(make_rollout, 0.11))
    assert penalty.coefficient == pytest.approx(0.202)


def test_scores_by_the_coefficient_of_the_moment(context, make_rollout) -> None:
    penalty = KLPenalty(KLPenaltyOptions(coefficient=0.2, target=0.1, horizon=100), context)
    rollout = a_rollout(make_rollout, 0.2)
    before = penalty.score(rollout)
    assert before.metrics == {"coefficient": 0.2}
    assert before.scores is None, "it has no opinion on a whole response"
    assert before.outcomes == ("scored",) * 10
    assert before.token_scores is not None
    torch.testing.assert_close(before.token_scores[0], torch.tensor([-0.03, -0.01, 0.0]))
    penalty.on_step(rollout)
    after = penalty.score(rollout)
    assert after.metrics["coefficient"] == pytest.approx(0.204)
    assert after.token_scores is not None
    torch.testing.assert_close(after.token_scores, before.token_scores * 1.02)


def test_without_a_target_it_is_fixed(context, make_rollout) -> None:
    penalty = KLPenalty(KLPenaltyOptions(), context)
    penalty.on_step(a_rollout(make_rollout, 99.0))
    assert penalty.coefficient == 1.0


def test_state_survives_json(context, make_rollout) -> None:
    options = KLPenaltyOptions(coefficient=0.2, target=0.1, horizon=100)
    penalty, resumed = KLPenalty(options, context), KLPenalty(options, context)
    penalty.on_step(a_rollout(make_rollout, 0.2))
    resumed.load_state_dict(json.loads(json.dumps(penalty.state_dict())))
    assert resumed.coefficient == penalty.coefficient


def test_a_fixed_coefficient_is_the_recipes_also_after_resuming(context) -> None:
    penalty = KLPenalty(KLPenaltyOptions(coefficient=0.5), context)
    penalty.load_state_dict({"coefficient": 0.1})
    assert penalty.coefficient == 0.5


@pytest.mark.parametrize(
    "wrong",
    [
        {"estimator": "k4"},
        {"coefficient": -1},
        {"target": 0},
        {"horizon": 0},
        {"target": 1, "coefficient": 0},
    ],
)
def test_options(wrong) -> None:
    with pytest.raises(ValidationError):
        KLPenaltyOptions(**wrong)
