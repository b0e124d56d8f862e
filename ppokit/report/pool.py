"""The responses of all steps as one table of columns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ppokit.report.ragged import Floats
from ppokit.report.run_data import RunData, section
from ppokit.report.statistics import Responses, group_means, window

_FINISHED = {"finished": 1.0, "truncated": 0.0}


@dataclass(frozen=True)
class Pool:
    """Columns over the responses of the steps that were read; N of them.

    Attributes:
        responses: step, group within its step, score and length of each.
        totals: the whole reward of each.
        rewards: raw scores by provider; NaN where it did not score.
        finished: 1 where a response ended by itself, 0 where not; NaN where there is none.
        first, last: the steps that are compared with each other.
    """

    responses: Responses
    totals: Floats
    rewards: dict[str, Floats]
    finished: Floats
    first: list[int]
    last: list[int]

    @classmethod
    def of(cls, run: RunData) -> Pool:
        steps = [s for s in run.steps if np.isfinite(s.score).any()]
        names = sorted({name for s in run.steps for name in s.rewards})
        sizes = [len(s) for s in run.steps]
        offset, groups = 0, []
        for samples in run.steps:
            _, own = np.unique(np.array(samples.groups), return_inverse=True)
            groups.append((own + offset).astype(np.float64))
            offset += int(own.max()) + 1
        compared = window([s.step for s in steps])
        return cls(
            responses=Responses(
                steps=np.repeat([float(s.step) for s in run.steps], sizes) if sizes else np.empty(0),
                groups=_joined(groups),
                scores=_joined([s.score for s in run.steps]),
                lengths=_joined([s.length for s in run.steps]),
            ),
            totals=_joined([s.total for s in run.steps]),
            rewards={
                name: _joined([s.rewards.get(name, np.full(len(s), np.nan)) for s in run.steps])
                for name in names
            },
            finished=_joined([np.array([_FINISHED.get(o, np.nan) for o in s.outcomes]) for s in run.steps]),
            first=[s.step for s in steps[:compared]],
            last=[s.step for s in steps[-compared:]],
        )

    def of_steps(self, steps: Sequence[int]) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
        """[N] whether each is of one of these steps."""
        return np.isin(self.responses.steps, steps)

    def means(self, numbers: Floats, steps: Sequence[int]) -> Floats:
        """The mean of each group of these steps."""
        chosen = self.of_steps(steps)
        return group_means(self.responses.groups[chosen], numbers[chosen])


def weightless(run: RunData) -> set[str]:
    """Names of the recipe's rewards that count for nothing."""
    rewards = run.recipe.get("rewards")
    if not isinstance(rewards, list):
        return set()
    settings = [section({"reward": reward}, "reward") for reward in rewards]
    return {str(each.get("name") or each.get("use")) for each in settings if each.get("weight") == 0}


def _joined(parts: Sequence[Floats]) -> Floats:
    return np.concatenate(parts).astype(np.float64) if parts else np.empty(0)
