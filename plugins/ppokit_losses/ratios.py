"""Importance ratios that stay finite, for the losses that compare two policies.

    ratio = exp(log p_new - log p_old)             of a token
    ratio = exp(mean over the real tokens of (log p_new - log p_old))      of a sequence

The second is the geometric mean of the first: Zheng et al. 2025 (GSPO), arXiv:2507.18071, eq. 7. Differs: the
exponent is held below 60, so that a ratio is finite in float32, its sums too. Only the value is held: the
gradient is still that of the held ratio, not 0, so that a token with a negative advantage is pushed down
however far it has gone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ppokit.plugin import LossInputs, clamp_exponent, upcast

if TYPE_CHECKING:
    from torch import Tensor


def new_and_old(inputs: LossInputs) -> tuple[Tensor, Tensor]:
    """Both [B,R] log-probabilities of a loss that needs them."""
    assert inputs.new_logprobs is not None, "`needs` names them"
    assert inputs.old_logprobs is not None, "`needs` names them"
    return inputs.new_logprobs, inputs.old_logprobs


def token_ratio(new_logprobs: Tensor, old_logprobs: Tensor) -> Tensor:
    """[B,R] ratio of each token, in float32 or wider; d ratio / d new_logprobs = ratio everywhere."""
    return clamp_exponent(upcast(new_logprobs) - upcast(old_logprobs)).exp()


def sequence_ratio(new_logprobs: Tensor, old_logprobs: Tensor, mask: Tensor) -> Tensor:
    """[B,1] ratio of each sequence, in float32 or wider; 1 where no token is real.

    d ratio / d new_logprobs = ratio / (real tokens of the sequence) on real tokens, 0 on padding.
    """
    log_ratio = upcast(new_logprobs) - upcast(old_logprobs)
    total = log_ratio.where(mask, log_ratio.new_zeros(())).sum(dim=1, keepdim=True)
    return clamp_exponent(total / mask.sum(dim=1, keepdim=True).clamp(min=1)).exp()
