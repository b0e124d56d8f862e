"""Penalty on every token for leaving the reference policy, fixed or steered to a target KL.

    token_score = -coefficient * KL_estimate(token)
    adaptive:  coefficient <- coefficient * (1 + clip(KL / target - 1, -0.2, 0.2) * n / horizon)

with KL the mean over the step's n responses of the sum of k1 over a response's tokens.

Ziegler et al. 2019, arXiv:1909.08593, section 2.2; the estimators: `ppokit.plugin.kl_estimators`. Differs:
the estimator of the penalty is a choice (the paper's is k1; the controller always measures by k1, as the
paper does, since its target is a KL per sequence). In a recipe `weight` multiplies the penalty as it
does any reward: leave it at 1 when the coefficient adapts, or the two are multiplied.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pydantic import Field, model_validator

from ppokit.plugin import (
    BuildContext,
    Component,
    KLEstimator,
    Need,
    Options,
    RewardOutput,
    Rollout,
    hookimpl,
    kl,
)

if TYPE_CHECKING:
    from torch import Tensor

_LARGEST_ERROR = 0.2


def kl_penalty(
    old_logprobs: Tensor, ref_logprobs: Tensor, mask: Tensor, *, coefficient: float, estimator: KLEstimator
) -> Tensor:
    """Token scores.

    Args:
        old_logprobs: [B,R] under the policy.
        ref_logprobs: [B,R] under the reference.
        mask: [B,R] bool, real response tokens.
        coefficient: scores are -coefficient times the KL.
        estimator: `k1`, `k2` or `k3`.

    Returns: [B,R], 0 on padding.
    """
    scores = -coefficient * kl(old_logprobs, ref_logprobs, estimator=estimator)
    return scores.where(mask, scores.new_zeros(()))


def adapted(coefficient: float, kl: float, *, target: float, horizon: int, responses: int) -> float:
    """Ziegler's controller: the coefficient after `responses` responses with a mean KL of `kl`."""
    error = min(max(kl / target - 1, -_LARGEST_ERROR), _LARGEST_ERROR)
    return coefficient * (1 + error * responses / horizon)


class KLPenaltyOptions(Options):
    estimator: KLEstimator = Field(
        "k1",
        description="k1: unbiased, can be negative; k2: low variance, biased; k3: never negative, unbiased.",
    )
    coefficient: float = Field(
        1.0,
        ge=0,
        allow_inf_nan=False,
        description="Penalty per nat of KL, before the recipe's weight; with a target, where it starts.",
    )
    target: float | None = Field(
        None,
        gt=0,
        allow_inf_nan=False,
        description="KL per response, in nats, that the coefficient is steered to. Not set: it is fixed.",
    )
    horizon: int = Field(
        10_000,
        gt=0,
        description="With a target: responses after which the coefficient has changed by at most a fifth.",
    )

    @model_validator(mode="after")
    def _can_adapt(self) -> KLPenaltyOptions:
        if self.target is not None and self.coefficient == 0:
            raise ValueError("coefficient 0 cannot adapt to a target: the controller multiplies it")
        return self


class KLPenalty:
    def __init__(self, options: KLPenaltyOptions, context: BuildContext) -> None:
        self.options = options
        self.coefficient = options.coefficient

    def score(self, rollout: Rollout) -> RewardOutput:
        old_logprobs, ref_logprobs = _both(rollout)
        token_scores = kl_penalty(
            old_logprobs,
            ref_logprobs,
            rollout.loss_mask,
            coefficient=self.coefficient,
            estimator=self.options.estimator,
        )
        return RewardOutput.of_tokens(token_scores, {"coefficient": self.coefficient})

    @hookimpl
    def on_step(self, rollout: Rollout) -> None:
        if self.options.target is None or len(rollout) == 0:
            return
        old_logprobs, ref_logprobs = _both(rollout)
        k1 = kl(old_logprobs, ref_logprobs, estimator="k1")
        k1_sum = k1.where(rollout.loss_mask, k1.new_zeros(())).sum(dim=1)  # [B]
        self.coefficient = adapted(
            self.coefficient,
            k1_sum.mean().item(),
            target=self.options.target,
            horizon=self.options.horizon,
            responses=len(rollout),
        )

    def state_dict(self) -> Mapping[str, Any]:
        return {"coefficient": self.coefficient}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        if self.options.target is not None:
            self.coefficient = float(state["coefficient"])


def _both(rollout: Rollout) -> tuple[Tensor, Tensor]:
    assert rollout.old_logprobs is not None, "`needs` names old_logprobs"
    assert rollout.ref_logprobs is not None, "`needs` names ref_logprobs"
    return rollout.old_logprobs, rollout.ref_logprobs


@hookimpl
def ppokit_reward_providers() -> list[Component]:
    needs: frozenset[Need] = frozenset({"old_logprobs", "ref_logprobs"})
    return [
        Component(
            "kl_penalty",
            KLPenalty,
            options=KLPenaltyOptions,
            needs=needs,
            waivers={"names_examples": "it reads log-probabilities, of which no text tells"},
        )
    ]
