"""Checks that stop a run which would train nothing, or the wrong thing."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor

from ppokit.errors import PluginError, TrainingError
from ppokit.plugin.kl_estimators import kl
from ppokit.plugin.masked import masked_mean
from ppokit.plugin.types import Advantages, Rollout

# Policy and reference are the same numbers before the first update, but for rounding.
LARGEST_FIRST_KL = 0.01


class FirstUpdate:
    """What must hold before and after the first update of a run.

    Args:
        policy_hash: of the policy that the run begins with.
        done: whether an update has moved the policy already, in a run that is resumed.
    """

    def __init__(self, policy_hash: str, *, done: bool) -> None:
        self.policy_hash, self.done = policy_hash, done

    def check_collected(self, rollout: Rollout) -> None:
        """Policy and reference are one model; raises TrainingError where they are not."""
        if not self.done:
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
            if rollout.old_logprobs is None:  # the update was the first to know
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


def check_tensor(where: str, name: str, value: object, shape: list[int], axes: str) -> Tensor:
    """What a component returned as `name`, once it is a tensor of this shape; `where` is how errors name it.

    Raises:
        PluginError: it is not.
    """
    if not isinstance(value, Tensor):
        kind = type(value).__name__
        raise PluginError(f"{where} returned {name} of type {kind}; expected a tensor {shape} ({axes}).")
    if list(value.shape) != shape:
        actual = list(value.shape)
        raise PluginError(f"{where} returned {name} of shape {actual}; expected {shape} ({axes}).")
    return value


def check_estimate(result: object, rollout: Rollout, where: str) -> None:
    """What an estimator returned is what was promised; `where` is how errors name it.

    Raises:
        PluginError: a wrong shape, or a number that is not finite.
    """
    if not isinstance(result, Advantages):
        raise PluginError(f"{where} returned a {type(result).__name__}; expected Advantages.")
    expected = list(rollout.response_ids.shape)
    trained = result.trained
    if trained is not None:
        actual = (
            f"shape {list(trained.shape)} and {trained.dtype}"
            if isinstance(trained, Tensor)
            else f"type {type(trained).__name__}"
        )
        if actual != f"shape {expected[:1]} and torch.bool":
            raise PluginError(
                f"{where} returned trained of {actual}; expected {expected[:1]} (responses) of torch.bool."
            )
    for name, numbers in (("advantages", result.advantages), ("returns", result.returns)):
        if numbers is None:
            continue
        check_tensor(where, name, numbers, expected, "responses, response tokens")
        bad = (~numbers.isfinite() & rollout.loss_mask).any(dim=1).nonzero().flatten().tolist()
        if bad:
            named = ", ".join(rollout.ids[row] for row in bad[:8])
            raise PluginError(
                f"{where} returned {name} that are not finite for the samples {named}; expected "
                "finite numbers."
            )
