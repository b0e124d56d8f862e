"""Rollouts, loss inputs and contexts to try a plugin on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from ppokit.plugin.protocols import BuildContext, CheckContext
from ppokit.plugin.types import LossInputs, Rewards, Rollout


@pytest.fixture(scope="session")
def context() -> BuildContext:
    return BuildContext(device=torch.device("cpu"), dtype=torch.float32, seed=0)


@pytest.fixture(scope="session")
def unknown_columns() -> CheckContext:
    return CheckContext(columns=None)


@pytest.fixture(scope="session")
def make_rollout() -> Callable[..., Rollout]:
    def make(
        responses: Sequence[str] = ("one", "two"),
        *,
        prompts: Sequence[str] | None = None,
        rows: Sequence[Mapping[str, Any]] | None = None,
        mask: Tensor | None = None,
        **tensors: Tensor,
    ) -> Rollout:
        """A rollout of these texts; the mask is all True over three tokens unless given."""
        count = len(responses)
        mask = torch.ones(count, 3, dtype=torch.bool) if mask is None else mask
        return Rollout(
            ids=[f"sample-{i}" for i in range(count)],
            group_ids=torch.arange(count),
            prompts=list(prompts or [f"prompt {i}" for i in range(count)]),
            responses=list(responses),
            rows=list(rows or [{} for _ in range(count)]),
            prompt_ids=[[1]] * count,
            response_ids=torch.zeros(mask.shape, dtype=torch.long),
            response_mask=mask,
            loss_mask=mask,
            outcomes=["finished"] * count,
            policy_version=torch.zeros(count, dtype=torch.long),
            sampler_logprobs=torch.zeros(mask.shape),
            **tensors,
        )

    return make


@pytest.fixture(scope="session")
def make_rewards() -> Callable[[Tensor], Rewards]:
    def make(token_rewards: Tensor) -> Rewards:
        count = len(token_rewards)
        everyone = torch.ones(count, dtype=torch.bool)
        return Rewards(token_rewards, torch.zeros(count), {}, {}, everyone, everyone)

    return make


@pytest.fixture(scope="session")
def make_inputs() -> Callable[..., LossInputs]:
    def make(**tensors: Tensor) -> LossInputs:
        """Inputs of a loss; what is not given is zero, or None where it may be."""
        shape = next(iter(tensors.values())).shape
        filled = {name: torch.zeros(shape) for name in ("advantages", "returns", "sampler_logprobs")}
        return LossInputs(**{"mask": torch.ones(shape, dtype=torch.bool), **filled, **tensors})

    return make
