"""The next step's rollout, answered while rewards of a step are on their way (`rewards[].overlap`).

    step k:  ask the rewards of rollout k | answer the prompts of step k + 1 | wait for the rewards | update

So rollout k + 1 is of the policy after k - 1 updates, and trains the one after k. What it is trained by is of
the policy that answered: old log-probabilities, values and the comparison of sampler and trainer are taken
before update k, so that a loss's ratio of new to old policy is the importance weight. For language models
with a lag of one update: Noukhovitch et al. 2024, arXiv:2410.18252.

The rollout belongs to the run's state: a run that goes on trains on what was answered before it stopped.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from ppokit.plugin.types import PromptBatch, Rollout

if TYPE_CHECKING:
    from ppokit.config.settings import Settings
    from ppokit.data.prompts import Prompts
    from ppokit.rollout.collect import Collector
    from ppokit.training.parity import ParityCheck

_OF_PROMPTS = ("group_ids", "prompts", "rows", "prompt_ids")


@dataclass(frozen=True)
class _Pending:
    """Attributes: step: that trains on the rollout; gap: of its parity check, None where nothing compares."""

    step: int
    prompts: PromptBatch
    rollout: Rollout
    gap: float | None


class RolloutAhead:
    """Answers the prompts of the next step, and keeps the rollout until that step.

    Args:
        settings: the run's.

    Attributes:
        last: the step after which nothing is answered; 0 where the recipe does not overlap.
    """

    def __init__(
        self, prompts: Prompts, collector: Collector, parity: ParityCheck, settings: Settings
    ) -> None:
        self.prompts, self.collector, self.parity = prompts, collector, parity
        self.last = settings.run.steps if settings.overlaps else 0
        self._pending: _Pending | None = None
        self._taken: _Pending | None = None

    def is_due(self, step: int) -> bool:
        """Whether the prompts of a step are yet to be answered ahead of it."""
        return step <= self.last and (self._pending is None or self._pending.step != step)

    def collect(self, step: int, *, updates: int) -> None:
        """Answer the prompts of a step.

        Args:
            updates: that the policy has had.

        Raises:
            TrainingError: the sampler answered with another policy.
        """
        prompts = self.prompts.step(step)
        rollout = self.collector.collect(prompts, step, updates=updates)
        assert rollout.old_logprobs is not None, "a recipe that overlaps needs them before the update"
        gap = self.parity.check(rollout, rollout.old_logprobs, version=updates)
        self._pending = _Pending(step, prompts, rollout, gap)

    def take(self, prompts: PromptBatch, step: int) -> Rollout | None:
        """The rollout of these prompts; None where they were not answered ahead."""
        pending = self._pending
        if pending is None or prompts.resample_round:
            return None
        self._pending = None
        if pending.step != step or pending.prompts.indices != prompts.indices:
            return None
        self._taken = pending
        return pending.rollout

    def metrics(self, step: int) -> dict[str, float]:
        """Of the rollout that a step has taken: its parity check, which the update cannot make any more."""
        if self._taken is None or self._taken.step != step or self._taken.gap is None:
            return {}
        return {"rollout/logprob_gap": self._taken.gap}

    def state_dict(self) -> dict[str, Any]:
        """What was answered; the prompts are the data set's."""
        pending = self._pending
        if pending is None:
            return {}
        rollout, indices = _stored(pending.rollout), list(pending.prompts.indices)
        return {"step": pending.step, "indices": indices, "gap": pending.gap, "rollout": rollout}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a `state_dict`, unless the step's prompts are others now."""
        self._pending = None
        if not state:
            return
        prompts = self.prompts.step(state["step"])
        if prompts.indices == state["indices"]:
            rollout = _restored(state["rollout"], prompts)
            self._pending = _Pending(state["step"], prompts, rollout, state["gap"])


def _stored(rollout: Rollout) -> dict[str, Any]:
    known = {name: value for name, value in vars(rollout).items() if value is not None}
    return {
        name: _stored(value) if isinstance(value, Rollout) else value
        for name, value in known.items()
        if name not in _OF_PROMPTS
    }


def _restored(state: Mapping[str, Any], prompts: PromptBatch) -> Rollout:
    own = dict(state)
    if "greedy" in own:
        own["greedy"] = _restored(own["greedy"], prompts)
    each = len(own["ids"]) // len(prompts)
    repeated = [index for index in range(len(prompts)) for _ in range(each)]
    return Rollout(
        group_ids=torch.tensor([prompts.indices[index] for index in repeated]),
        prompts=[prompts.prompts[index] for index in repeated],
        rows=[deepcopy(prompts.rows[index]) for index in repeated],
        prompt_ids=[prompts.prompt_ids[index] for index in repeated],
        **own,
    )
