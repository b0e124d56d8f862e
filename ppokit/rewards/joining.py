"""Outputs of several calls, of parts of the responses, as one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

import torch
from torch import Tensor

from ppokit.plugin.reductions import Reduction, merge
from ppokit.plugin.reward_output import Outcome, RewardOutput
from ppokit.plugin.types import Rollout

Part = tuple[Sequence[int], RewardOutput]


def failed_output(count: int, failure: str | BaseException) -> RewardOutput:
    """Every response failed, of one cause."""
    failed: Outcome = "failed"
    return RewardOutput(None, (failed,) * count, failures=dict.fromkeys(range(count), failure))


def join(parts: Sequence[Part], whole: Rollout) -> RewardOutput:
    """Outputs of some responses each, by their indices in the whole; a later one replaces an earlier one.

    Metrics go by their reduction, and only those of responses that were scored in the end do not count twice.

    Returns: `scores` None where no part has any and some have token scores.
    """
    count, width = whole.response_ids.shape
    outcomes: list[Outcome] = ["failed"] * count
    failures: dict[int, str | BaseException] = {}
    scores, tokens = torch.zeros(count), torch.zeros(count, width)
    named: dict[str, Tensor] = {}
    notes: dict[str, list[str]] = {}
    for indices, output in parts:
        index = torch.tensor(list(indices), dtype=torch.int64)
        scores[index] = torch.zeros(len(index)) if output.scores is None else output.scores
        if output.token_scores is not None:
            tokens[index] = output.token_scores
        for name, numbers in output.parts.items():
            named.setdefault(name, torch.full((count,), float("nan")))[index] = numbers
        for name, texts in output.notes.items():
            column = notes.setdefault(name, [""] * count)
            for i, text in zip(indices, texts, strict=True):
                column[i] = text
        for k, i in enumerate(indices):
            outcomes[i] = output.outcomes[k]
            failures.pop(i, None)
            if output.outcomes[k] == "failed":
                failures[i] = output.reason(k)
    some_tokens = any(output.token_scores is not None for _, output in parts)
    tokens_alone = some_tokens and all(output.scores is None for _, output in parts)
    return RewardOutput(
        scores=None if tokens_alone else scores,
        outcomes=tuple(outcomes),
        token_scores=tokens if some_tokens else None,
        metrics=merge(cast(Mapping[str, Reduction], output.metrics) for _, output in parts),
        failures=failures,
        parts=named,
        notes={name: tuple(texts) for name, texts in notes.items()},
    )


def group_indices(rollout: Rollout) -> list[list[int]]:
    """Indices of each group's responses, in order of their first."""
    groups: dict[int, list[int]] = {}
    for index, group in enumerate(rollout.group_ids.tolist()):
        groups.setdefault(group, []).append(index)
    return list(groups.values())
