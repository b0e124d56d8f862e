"""KL divergence from the reference policy as a loss.

    loss = k1, k2 or k3 of (log p_new, log p_ref), see `ppokit.plugin.kl_estimators`
    loss = k3 + k2 - sg(k2)           k3_with_k2_gradient: the value of k3, the gradient of k2

with sg the stop-gradient. On tokens that the policy itself drew, the expected gradients are

    k1                        0: it regularises nothing, it only adds noise
    k2, k3_with_k2_gradient   that of KL(policy || reference), as with k1 in the reward
    k3                        that of KL(reference || policy), a different objective that agrees to first
                              order near the reference

The estimators: J. Schulman, "Approximating KL divergence", 2020, joschu.net/blog/kl-approx.html. k3 as a
loss: Shao et al. 2024 (GRPO), arXiv:2402.03300, eq. 4. The gradients: Liu et al. 2025, arXiv:2510.01555.
On tokens that an older policy drew, all of them are biased: no importance weight is applied. Differs: none.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from ppokit.plugin import Component, LossInputs, LossOutput, Need, Options, hookimpl, upcast
from ppokit.plugin import kl as estimate

if TYPE_CHECKING:
    from torch import Tensor

KLLossEstimator = Literal["k1", "k2", "k3", "k3_with_k2_gradient"]


def kl(new_logprobs: Tensor, ref_logprobs: Tensor, *, estimator: KLLossEstimator) -> Tensor:
    """Loss of each token in nats, computed in float32 or wider.

    Args:
        new_logprobs: [B,R] under the policy being trained, with gradient.
        ref_logprobs: [B,R] under the reference.
        estimator: `k1`, `k2`, `k3` or `k3_with_k2_gradient`.

    Returns: [B,R].

    Raises:
        ValueError: an unknown estimator.
    """
    new, ref = upcast(new_logprobs), upcast(ref_logprobs)
    if estimator != "k3_with_k2_gradient":
        return estimate(new, ref, estimator=estimator)
    k2 = estimate(new, ref, estimator="k2")
    return estimate(new.detach(), ref, estimator="k3") + (k2 - k2.detach())


class KL(Options):
    estimator: KLLossEstimator = Field(
        "k3",
        description="k3: as in GRPO; k2: the gradient of KL(policy || reference); k3_with_k2_gradient: the "
        "value of k3, the gradient of k2; k1: no gradient on average.",
    )

    def token_losses(self, inputs: LossInputs) -> LossOutput:
        assert inputs.new_logprobs is not None, "`needs` names them"
        assert inputs.ref_logprobs is not None, "`needs` names ref_logprobs"
        loss = kl(inputs.new_logprobs, inputs.ref_logprobs, estimator=self.estimator)
        new = inputs.new_logprobs.detach()
        # Not `kl/k1`: that is the core's, of the policy that sampled; this is of the policy being trained.
        metrics = {
            "policy/ref_kl_k1": kl(new, inputs.ref_logprobs, estimator="k1"),
            "policy/ref_kl_k3": kl(new, inputs.ref_logprobs, estimator="k3"),
        }
        return LossOutput(loss, metrics)


@hookimpl
def ppokit_losses() -> list[Component]:
    needs: frozenset[Need] = frozenset({"new_logprobs", "ref_logprobs"})
    return [Component("kl", options=KL, needs=needs)]
