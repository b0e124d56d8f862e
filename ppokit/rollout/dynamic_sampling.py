"""Dynamic sampling: groups whose responses all have one reward teach nothing, and are replaced.

Yu et al. 2025 (DAPO), arXiv:2503.14476, section 3.2. Differs: as many new prompts are asked as groups
were dropped, not a whole batch; a bound on the rounds may leave a step smaller; and what was dropped
stays in the step's records.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from ppokit.plugin.reductions import Mean, Reduction, Sum, merge
from ppokit.plugin.types import PromptBatch, Rewards, Rollout

Part = tuple[Rollout, Rewards]


def resample(
    part: Part,
    rounds: int | None,
    others: Callable[[int, int, set[int]], PromptBatch],
    collect: Callable[[PromptBatch], Rollout],
    score: Callable[[Rollout], Rewards],
) -> Part:
    """Drop groups of equal rewards, and ask other prompts in their place.

    Args:
        part: a step's rollout and its rewards.
        rounds: how many times at most; None leaves everything as it is.
        others: other prompts, given the round (from 1), how many are missing, and the groups that were asked
            already; empty where none is left.
        collect: answers prompts.
        score: rewards their answers.
    """
    if rounds is None:
        return part
    parts = [filter_groups(*part)]
    for resample_round in range(1, rounds + 1):
        asked = {group for rollout, _ in parts for group in rollout.group_ids.tolist()}
        missing = count_groups(parts[:1]) - count_groups(parts, kept=True)
        if not len(prompts := others(resample_round, missing, asked)):
            break
        rollout = collect(prompts)
        parts.append(filter_groups(rollout, score(rollout)))
    return concat(parts)


def filter_groups(rollout: Rollout, rewards: Rewards) -> Part:
    """The same with `rewards.trained` False where the scored responses of a group have one score.

    Token rewards, such as a KL penalty, do not count: they differ between any two responses.
    """
    trained = rewards.trained.clone()
    for group in set(rollout.group_ids.tolist()):
        members = rollout.group_ids == group
        scores = rewards.scores[members & rewards.scored]
        if bool((scores == scores[:1]).all()):  # also where only one is left, or none
            trained &= ~members
    return rollout, replace(rewards, trained=trained)


def count_groups(parts: Sequence[Part], *, kept: bool = False) -> int:
    """Groups in filtered parts; `kept` counts those that are trained on."""
    groups: set[int] = set()
    for rollout, rewards in parts:
        groups.update((rollout.group_ids[rewards.trained] if kept else rollout.group_ids).tolist())
    return len(groups)


def concat(parts: Sequence[Part]) -> Part:
    """Filtered parts as one, padded to the longest response and counted in the metrics."""
    rollout = concat_rollouts([rollout for rollout, _ in parts])
    rewards = concat_rewards([rewards for _, rewards in parts], rollout.response_ids.shape[1])
    asked, kept = count_groups(parts), count_groups(parts, kept=True)
    counts = {
        "groups/dropped": Sum(asked - kept),
        "groups/resampled": Sum(asked - count_groups(parts[:1])),
        "groups/trained": Sum(kept),
    }
    return rollout, replace(rewards, metrics={**rewards.metrics, **counts})


def _concat(values: Sequence[Any], width: int) -> Any:
    """One field of several rollouts or rewards as one, padded to `width` tokens; None and texts stay."""
    first = values[0]
    if isinstance(first, Tensor):
        return torch.cat(
            [nn.functional.pad(v, (0, width - v.shape[1])) if v.dim() == 2 else v for v in values]
        )
    if isinstance(first, Mapping):
        return {name: _concat([value[name] for value in values], width) for name in first}
    if isinstance(first, Rollout):
        return concat_rollouts(values)
    if first is None or isinstance(first, str):
        return first
    return type(first)(item for value in values for item in value)


def concat_rollouts(parts: Sequence[Rollout]) -> Rollout:
    """Rollouts as one, padded to the longest response."""
    width = max(part.response_ids.shape[1] for part in parts)
    return Rollout(**{name: _concat([vars(part)[name] for part in parts], width) for name in vars(parts[0])})


def concat_rewards(parts: Sequence[Rewards], width: int) -> Rewards:
    """Rewards of several rollouts as one, padded to `width` response tokens; metrics by their reduction."""
    metrics = merge(
        {
            name: metric if isinstance(metric, Reduction) else Mean(metric, len(part.scores))
            for name, metric in part.metrics.items()
        }
        for part in parts
    )
    parts = _with_same_columns(parts)
    joined = {name: [vars(part)[name] for part in parts] for name in vars(parts[0]) if name != "metrics"}
    return Rewards(metrics=metrics, **{name: _concat(values, width) for name, values in joined.items()})


def _with_same_columns(parts: Sequence[Rewards]) -> list[Rewards]:
    """The same, each with the reasons, parts and notes that any has: empty texts, and NaN."""

    def fill(column: str, empty: Callable[[int], Any]) -> list[dict[str, Any]]:
        names = dict.fromkeys(name for part in parts for name in getattr(part, column))
        return [
            {name: getattr(part, column).get(name, empty(len(part.scores))) for name in names}
            for part in parts
        ]

    reasons, notes = (fill(column, lambda n: ("",) * n) for column in ("reasons", "notes"))
    named = fill("parts", lambda n: torch.full((n,), float("nan")))
    return [
        replace(part, reasons=r, parts=p, notes=n)
        for part, r, p, n in zip(parts, reasons, named, notes, strict=True)
    ]
