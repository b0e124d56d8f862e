"""What the failures of a provider mean: the error budget, a provider that never works, imputed scores.

Nothing becomes a silent zero: a response is scored, abstained or failed, and a step in which more than the
allowed share failed stops the run.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ppokit.config.components import BuiltComponent
from ppokit.errors import RewardError
from ppokit.plugin.types import Rewards, Rollout

if TYPE_CHECKING:
    from torch import Tensor

_SHOWN = 3  # causes in a message
_LONGEST = 300  # characters of one


class FailedRewardsError(RewardError):
    """More outcomes of a rollout failed than the recipe allows.

    Attributes:
        rollout, rewards: its responses, and what was scored and what failed of them.
    """

    def __init__(self, message: str, rollout: Rollout, rewards: Rewards) -> None:
        super().__init__(message)
        self.rollout, self.rewards = rollout, rewards


def over_budget(reward: BuiltComponent, rewards: Rewards, max_failed: float, *, worked: bool) -> str:
    """What to say where a reward failed for more responses than the recipe allows; empty where it did not.

    Args:
        max_failed: the largest share of the responses that may fail.
        worked: whether the provider has given anything but failures before.
    """
    outcomes = rewards.outcomes[reward.name]
    failed, count = outcomes.count("failed"), len(outcomes)
    if not failed:
        return ""
    if reward.settings.on_failure == "fail":
        rule = f"and {reward.key}.on_failure is fail"
    elif failed / count > max_failed:  # not by a product: 0.29 * 100 is below 29
        rule = f"more than run.max_failed_rewards allows ({max_failed:g} of them)"
    elif failed == count and not worked:
        rule = "and has never worked: there is nothing to learn from, whatever run.max_failed_rewards allows"
    else:
        return ""
    causes = causes_of(rewards.reasons.get(reward.name, ()))
    first, *others = causes or ["it reported them as failed"]
    more = f" Others: {'; '.join(others)}" if others else ""
    return f"{reward.where} failed for {failed} of {count} responses, {rule}. First cause: {first}{more}"


def causes_of(reasons: Sequence[str]) -> list[str]:
    """Different reasons, the first first and then the most frequent, each with its count where not 1."""
    texts = [reason for reason in reasons if reason]
    counts = Counter(texts)
    order = [*texts[:1], *(text for text, _ in counts.most_common() if text != texts[0])] if texts else []
    shown = [
        f"{_short(text)} ({counts[text]} times)" if counts[text] > 1 and len(counts) > 1 else _short(text)
        for text in order[:_SHOWN]
    ]
    return [*shown, f"and {len(order) - _SHOWN} more"] if len(order) > _SHOWN else shown


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"


def impute(scores: Tensor, scored: Tensor, failed: Tensor, group_ids: Tensor) -> tuple[Tensor, Tensor]:
    """Scores with the mean of the group, or of the batch, where one failed.

    Args:
        scores: [B] float32.
        scored, failed: [B] bool.
        group_ids: [B] int64.

    Returns: scores, and [B] bool of those that have one in place of a failure: none where nothing was scored.
    """
    import torch

    if not bool(failed.any()) or not bool(scored.any()):
        return scores, torch.zeros_like(failed)
    scores = scores.clone()
    for index in failed.nonzero().flatten().tolist():
        group = scored & (group_ids == group_ids[index])
        scores[index] = scores[group if bool(group.any()) else scored].mean()
    return scores, failed
