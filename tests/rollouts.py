"""Rollouts of given token ids, and the processes that a rollout needs, for tests."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from accelerate import Accelerator

from ppokit.distributed import Processes
from ppokit.plugin.types import Rollout
from ppokit.rollout.generate import pad


def make_rollout(
    prompts: Sequence[Sequence[int]], responses: Sequence[Sequence[int]], **changes: Any
) -> Rollout:
    """A rollout of these token ids."""
    ids, mask = pad(responses)
    count = len(responses)
    return Rollout(
        ids=[f"sample-{i}" for i in range(count)],
        group_ids=torch.arange(count),
        prompts=[f"prompt {i}" for i in range(count)],
        responses=[f"response {i}" for i in range(count)],
        rows=[{"row": i} for i in range(count)],
        prompt_ids=[list(p) for p in prompts],
        response_ids=ids,
        response_mask=mask,
        **{
            "outcomes": ["finished"] * count,
            "loss_mask": mask,
            "policy_version": torch.zeros(count, dtype=torch.long),
            "sampler_logprobs": torch.zeros(mask.shape),
            **changes,
        },
    )


def single_process() -> Processes:
    return Processes(Accelerator(cpu=True))


class Other:
    """Another process, which learns what the main one sent."""

    count, is_main = 2, False

    def __init__(self, sent: list[list[Any]]) -> None:
        self.sent = iter(sent)
        self.own: list[Any] = []

    def share(self, total: int) -> range:
        return range(total // 2, total)

    def together(self) -> AbstractContextManager[None]:
        return nullcontext()

    def gather(self, items: list[Any]) -> list[Any]:
        self.own.append(list(items))
        return next(self.sent)
