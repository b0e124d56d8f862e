"""Estimators of the KL divergence from the sampled tokens' log-probabilities.

    k1 = log p - log q        k2 = (log p - log q)^2 / 2        k3 = q/p - 1 + log p - log q

for KL(p || q) with tokens drawn from p (policy), q the reference. k1 is unbiased and can be negative,
k2 is biased with low variance, k3 is unbiased and never negative.

J. Schulman, "Approximating KL divergence", 2020, joschu.net/blog/kl-approx.html. Differs: in k3 the
exponent's value is held below 60, so that a token that the policy has all but ruled out gives a large
number and not infinity, with a gradient that still pushes it up; and exp(x) - 1 is taken as one
operation, without which near-equal policies would give rounding noise of either sign.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from torch import Tensor

KLEstimator = Literal["k1", "k2", "k3"]
_LARGEST_EXPONENT = 60.0  # exp(60) is about 1e26: finite in float32, its sums too


def kl(logprobs: Tensor, ref_logprobs: Tensor, *, estimator: KLEstimator) -> Tensor:
    """Token by token estimate of KL(policy || reference), in nats.

    Args:
        logprobs: [B,R] under the policy.
        ref_logprobs: [B,R] under the reference.
        estimator: `k1`, `k2` or `k3`.

    Returns: [B,R].

    Raises:
        ValueError: an unknown estimator.
    """
    log_ratio = logprobs - ref_logprobs
    if estimator == "k1":
        return log_ratio
    if estimator == "k2":
        return log_ratio.square() / 2
    if estimator == "k3":
        return clamp_exponent(-log_ratio).expm1() + log_ratio
    raise ValueError(f"KL estimator {estimator!r}; expected k1, k2 or k3")


def clamp_exponent(exponent: Tensor) -> Tensor:
    """The exponent, its value held at 60 and its slope 1: its exp is finite and keeps a gradient."""
    return exponent - (exponent.detach() - _LARGEST_EXPONENT).clamp(min=0)
