"""Importance weights for tokens that were not sampled by quite the policy that trains.

    w = exp(log p_old - log p_sampler)                                   level: token
    w = exp(sum over the real tokens of (log p_old - log p_sampler))     level: sequence

    truncate:  min(w, cap)
    mask:      w where floor <= w <= cap, else 0

p_sampler is what the rollout engine drew from, with its own kernels, precision and merged weights; p_old
the policy before the update, by the forward that trains. The weights multiply the advantages that the other
losses see. For responses that another policy drew, it is the same correction; where no log-probability
is known (NaN), as of a response that a person wrote, nothing is corrected: w = 1. Of a token that the sampler
says it could not draw (-inf), the ratio is infinite, whatever p_old: truncated to the cap, or masked.

Truncation: Yao et al. 2025, "Your Efficient RL Framework Secretly Brings You Off-Policy RL Training";
Ionides 2008, "Truncated Importance Sampling". Masking: Liu et al. 2025, "When Speed Kills Stability", by
sequence; IcePop, Ling Team 2025, arXiv:2510.18855, by token with both bounds. By token, the weight ignores
that earlier tokens were drawn differently too (biased, low variance); by sequence, it is exact but for the
bounds, and its variance grows with the length, so that long responses mostly meet the bounds. Differs:
masked tokens weigh 0 but still count in the aggregation's denominators, and advantages are whitened before
they are weighed.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

from pydantic import Field, model_validator

from ppokit.plugin import (
    AdvantageWeights,
    Component,
    LossInputs,
    Need,
    Options,
    hookimpl,
    kl,
    upcast,
)

if TYPE_CHECKING:
    from torch import Tensor

Level = Literal["token", "sequence"]
Mode = Literal["truncate", "mask"]
_LARGEST_EXPONENT = 60.0
"""exp(60) is about 1e26: finite in float32, its sums too."""


def off_policy_correction(
    old_logprobs: Tensor,
    sampler_logprobs: Tensor,
    mask: Tensor,
    *,
    level: Level,
    mode: Mode,
    cap: float,
    floor: float = 0.0,
) -> Tensor:
    """Weight of each token, in float32 or wider, without gradient.

    Args:
        old_logprobs: [B,R] under the policy before the update.
        sampler_logprobs: [B,R] as the engine sampled them; NaN where it does not know them.
        mask: [B,R] bool, real response tokens.
        level: `token`, or `sequence`: one weight per response.
        mode: `truncate` or `mask`.
        cap: the largest weight; a larger one is truncated to it, or masked.
        floor: with `mask`, the smallest weight; a smaller one is masked.

    Returns: [B,R]; 0 on padding.
    """
    ratio = _ratio(old_logprobs, sampler_logprobs, mask, level)
    zero = ratio.new_zeros(())
    weight = ratio.clamp(max=cap) if mode == "truncate" else ratio.where(_kept(ratio, cap, floor), zero)
    return weight.where(mask, zero)


def _ratio(old_logprobs: Tensor, sampler_logprobs: Tensor, mask: Tensor, level: Level) -> Tensor:
    """[B,R] weights without bounds."""
    difference = _difference(old_logprobs, sampler_logprobs).where(mask, upcast(old_logprobs).new_zeros(()))
    if level == "sequence":
        total = difference.sum(dim=1, keepdim=True)
        # Beside a token of -inf, the sum is not a number, which one token alone may be.
        infinite = (difference == math.inf).any(dim=1, keepdim=True)
        known = ~difference.isnan().any(dim=1, keepdim=True)
        difference = total.masked_fill(infinite & known, math.inf).expand_as(difference)
    return difference.clamp(max=_LARGEST_EXPONENT).exp()


def _difference(old_logprobs: Tensor, sampler_logprobs: Tensor) -> Tensor:
    """[B,R] log p_old - log p_sampler: inf where the sampler says -inf, 0 where it knows nothing."""
    old = upcast(old_logprobs).detach()
    difference = old - _known(sampler_logprobs, old)
    return difference.masked_fill((sampler_logprobs == -math.inf) & ~old.isnan(), math.inf)


def _known(sampler_logprobs: Tensor, old_logprobs: Tensor) -> Tensor:
    """[B,R] the sampler's log-probabilities, those of `old_logprobs` where it knows none."""
    return upcast(sampler_logprobs).where(~sampler_logprobs.isnan(), upcast(old_logprobs))


def _kl(old_logprobs: Tensor, sampler_logprobs: Tensor) -> Tensor:
    """[B,R] KL (k3) of the sampler from the trainer; 0 for tokens that either says could not be drawn."""
    old = upcast(old_logprobs)
    finite = (sampler_logprobs != -math.inf) & (old != -math.inf)
    numbers = kl(_known(sampler_logprobs, old), old, estimator="k3")
    return numbers.where(finite, numbers.new_zeros(()))


def _kept(ratio: Tensor, cap: float, floor: float) -> Tensor:
    return (ratio >= floor) & (ratio <= cap)


class OffPolicyCorrection(Options):
    level: Level = Field("token", description="One weight per token, or one per response (sequence).")
    mode: Mode = Field(
        "truncate", description="truncate weights to the cap, or mask what is beyond the bounds."
    )
    cap: float = Field(2.0, ge=1, allow_inf_nan=False, description="The largest weight.")
    floor: float = Field(
        0.0, ge=0, le=1, description="With mode: mask, the smallest weight; 0: no lower bound."
    )

    @model_validator(mode="after")
    def _floor_has_an_effect(self) -> OffPolicyCorrection:
        if self.mode == "truncate" and self.floor > 0:
            raise ValueError(f"floor {self.floor:g} has an effect with mode: mask only; remove it")
        return self

    def advantage_weights(self, inputs: LossInputs) -> AdvantageWeights:
        assert inputs.old_logprobs is not None, "`needs` names them"
        old, sampler, mask = inputs.old_logprobs, inputs.sampler_logprobs, inputs.mask
        weights = off_policy_correction(
            old,
            sampler,
            mask,
            level=self.level,
            mode=self.mode,
            cap=self.cap,
            floor=self.floor,
        )
        ratio = _ratio(old, sampler, mask, self.level)
        metrics = {
            "off_policy/weight": weights,
            "off_policy/kl_k3": _kl(old, sampler),
            "off_policy/unknown": sampler.isnan().to(ratio.dtype),
        }
        if self.mode == "truncate":
            metrics["off_policy/truncated"] = (ratio > self.cap).to(ratio.dtype)
        else:
            metrics["off_policy/masked"] = (~_kept(ratio, self.cap, self.floor)).to(ratio.dtype)
        return AdvantageWeights(weights, metrics)


@hookimpl
def ppokit_losses() -> list[Component]:
    needs: frozenset[Need] = frozenset({"new_logprobs", "old_logprobs"})
    return [Component("off_policy_correction", options=OffPolicyCorrection, needs=needs)]
