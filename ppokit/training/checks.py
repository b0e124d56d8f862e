"""Checks that stop a run which would train nothing, or the wrong thing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from torch import Tensor

from ppokit.errors import TrainingError
from ppokit.plugin.kl_estimators import kl
from ppokit.plugin.masked import masked_mean
from ppokit.plugin.types import Advantages, Rollout

if TYPE_CHECKING:
    from ppokit.config.settings import UpdateSettings

# Policy and reference are the same numbers before the first update, but for rounding.
LARGEST_FIRST_KL = 0.01


class FirstUpdate:
    """What must hold before and after the first update of a run.

    Args:
        policy_hash: of the policy that the run begins with.
        settings: the recipe's; the sampler's old log-probabilities are first compared with the policy's by
            the update, and a wrong sampler is no wrong reference.
        done: whether an update has moved the policy already, in a run that is resumed.
    """

    def __init__(self, policy_hash: str, settings: UpdateSettings, *, done: bool) -> None:
        self.policy_hash, self.done = policy_hash, done
        self.by_sampler = settings.old_logprobs == "sampler"

    def check_collected(self, rollout: Rollout) -> None:
        """Policy and reference are one model; raises TrainingError where they are not."""
        if not self.done and not self.by_sampler:
            check_first_kl(first_kl(rollout))

    def check_updated(
        self,
        rollout: Rollout,
        advantages: Advantages,
        stats: Mapping[str, float],
        policy_hash: Callable[[], str],
    ) -> None:
        """They were, where only the update has found out, and the policy has moved; raises TrainingError."""
        if not self.done:
            if rollout.old_logprobs is None or self.by_sampler:  # the update was the first to know
                check_first_kl(stats.get("kl/k3"))
            self.done = check_moved(self.policy_hash, policy_hash(), advantages.advantages)


def first_kl(rollout: Rollout) -> float | None:
    """KL (k3) between policy and reference, in nats per token; None where it is not known yet."""
    if rollout.old_logprobs is None or rollout.ref_logprobs is None:
        return None
    numbers = kl(rollout.old_logprobs, rollout.ref_logprobs, estimator="k3")
    return float(masked_mean(numbers, rollout.loss_mask))


def check_first_kl(mean: float | None) -> None:
    """Before the first update, policy and reference are one model.

    Raises:
        TrainingError: they are not.
    """
    if mean is not None and not mean < LARGEST_FIRST_KL:
        raise TrainingError(
            f"the KL (k3) between policy and reference is {mean:.3g} nats per token before the first "
            f"update; expected less than {LARGEST_FIRST_KL}. The reference is not the model that training "
            "starts from."
        )


def check_moved(before: str, after: str, advantages: Tensor) -> bool:
    """Whether an update changed the policy, by its hash; it must where there was something to learn.

    Raises:
        TrainingError: there were advantages, and the policy is what it was.
    """
    if before != after:
        return True
    if bool((advantages != 0).any()):
        raise TrainingError(
            "the policy did not change in its first update, though there were advantages to learn from. "
            "No gradient reaches it: do the recipe's losses use new_logprobs, with a weight that is not 0?"
        )
    return False
