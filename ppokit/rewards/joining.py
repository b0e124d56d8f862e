"""Outputs of several calls, of parts of the responses, as one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import cast

import torch
from torch import Tensor

from ppokit.plugin.reductions import Mean, Reduction, merge
from ppokit.plugin.reward_output import Outcome, RewardOutput
from ppokit.plugin.types import Rollout

Part = tuple[Sequence[int], RewardOutput]


def failed_output(count: int, failure: str | BaseException) -> RewardOutput:
    """Every response failed, of one cause."""
    failed: Outcome = "failed"
    return RewardOutput(None, (failed,) * count, failures=dict.fromkeys(range(count), failure))


def join(parts: Sequence[Part], whole: Rollout) -> RewardOutput:
    """Outputs of some responses each, by their indices in the whole; a later one replaces an earlier one.

    Metrics go by their reduction, those of outputs that were replaced whole not at all; a mean weighs as many
    of its responses as were not replaced.

    Returns: `scores` None where no part has any and some have token scores.
    """
    count, width = whole.response_ids.shape
    outcomes: list[Outcome] = ["failed"] * count
    failures: dict[int, str | BaseException] = {}
    scores, tokens = torch.zeros(count), torch.zeros(count, width)
    named: dict[str, Tensor] = {}
    notes: dict[str, list[str]] = {}
    metrics: list[Mapping[str, Reduction]] = []
    last = {index: output for indices, output in parts for index in indices}
    standing = []
    for indices, output in parts:
        kept = [k for k, i in enumerate(indices) if last[i] is output]
        if not kept:
            continue
        standing.append(output)
        places = [indices[k] for k in kept]
        if output.scores is not None:
            scores[places] = output.scores[kept]
        if output.token_scores is not None:
            tokens[places] = output.token_scores[kept]
        for name, numbers in output.parts.items():
            named.setdefault(name, torch.full((count,), float("nan")))[places] = numbers[kept]
        for k, i in zip(kept, places, strict=True):
            for name, texts in output.notes.items():
                notes.setdefault(name, [""] * count)[i] = texts[k]
            outcomes[i] = output.outcomes[k]
            if output.outcomes[k] == "failed":
                failures[i] = output.reason(k)
        metrics.append(_of_share(output, len(kept) / len(indices)))
    some_tokens = any(output.token_scores is not None for output in standing)
    tokens_alone = some_tokens and all(output.scores is None for output in standing)
    return RewardOutput(
        scores=None if tokens_alone else scores,
        outcomes=tuple(outcomes),
        token_scores=tokens if some_tokens else None,
        metrics=merge(metrics),
        failures=failures,
        parts=named,
        notes={name: tuple(texts) for name, texts in notes.items()},
    )


def _of_share(output: RewardOutput, share: float) -> dict[str, Reduction]:
    """An output's metrics, of which so many of its responses stand."""
    metrics = cast(Mapping[str, Reduction], output.metrics)
    return {
        name: replace(metric, weight=metric.weight * share) if isinstance(metric, Mean) else metric
        for name, metric in metrics.items()
    }


def group_indices(rollout: Rollout) -> list[list[int]]:
    """Indices of each group's responses, in order of their first."""
    groups: dict[int, list[int]] = {}
    for index, group in enumerate(rollout.group_ids.tolist()):
        groups.setdefault(group, []).append(index)
    return list(groups.values())
