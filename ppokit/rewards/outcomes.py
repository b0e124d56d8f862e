"""What the failures of a provider mean: the error budget, a provider that never works, imputed scores.

Nothing becomes a silent zero: a response is scored, abstained or failed, and a step in which more than the
allowed share failed stops the run.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import torch
from torch import Tensor

from ppokit.config.components import BuiltComponent
from ppokit.errors import RewardError
from ppokit.plugin.reward_output import RewardOutput

_SHOWN = 3  # causes in a message
_LONGEST = 300  # characters of one


def check_budget(reward: BuiltComponent, output: RewardOutput, max_failed: float, *, worked: bool) -> None:
    """Stop where too much failed.

    Args:
        max_failed: the largest share of the responses that may fail.
        worked: whether the provider has given anything but failures before.

    Raises:
        RewardError: more failed than the recipe allows, or everything has from the start.
    """
    failed, count = output.outcomes.count("failed"), len(output.outcomes)
    if not failed:
        return
    if reward.settings.on_failure == "fail":
        rule = f"and {reward.key}.on_failure is fail"
    elif failed / count > max_failed:  # not by a product: 0.29 * 100 is below 29
        rule = f"more than run.max_failed_rewards allows ({max_failed:g} of them)"
    elif failed == count and not worked:
        rule = "and has never worked: there is nothing to learn from, whatever run.max_failed_rewards allows"
    else:
        return
    causes = causes_of(list(output.failures.values()))
    first, *others = causes or ["it reported them as failed"]
    more = f" Others: {'; '.join(others)}" if others else ""
    raise RewardError(
        f"{reward.where} failed for {failed} of {count} responses, {rule}. First cause: {first}{more}"
    )


def causes_of(reasons: Sequence[object]) -> list[str]:
    """Different reasons, the first first and then the most frequent, each with its count where not 1."""
    texts = [str(reason) for reason in reasons if str(reason)]
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
    if not bool(failed.any()) or not bool(scored.any()):
        return scores, torch.zeros_like(failed)
    scores = scores.clone()
    for index in failed.nonzero().flatten().tolist():
        group = scored & (group_ids == group_ids[index])
        scores[index] = scores[group if bool(group.any()) else scored].mean()
    return scores, failed
