"""The responses of all steps as one table of columns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ppokit.report.ragged import Floats
from ppokit.report.run_data import RunData
from ppokit.report.statistics import UNKNOWN, Estimate, Responses, group_means, mean_difference

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
        names = sorted({name for s in run.steps for name in s.rewards})
        sizes = [len(s) for s in run.steps]
        offset, groups = 0, []
        for samples in run.steps:
            _, own = np.unique(np.array(samples.groups), return_inverse=True)
            groups.append((own + offset).astype(np.float64))
            offset += int(own.max()) + 1
        first, last = run.compared()
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
            first=first,
            last=last,
        )

    def of_steps(self, steps: Sequence[int]) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
        """[N] whether each is of one of these steps."""
        return np.isin(self.responses.steps, steps)

    def means(self, numbers: Floats, steps: Sequence[int]) -> Floats:
        """The mean of each group of these steps; none where the samples of one of them were not read."""
        chosen = self.of_steps(steps)
        if len(np.unique(self.responses.steps[chosen])) < len(steps):
            return np.empty(0)
        return group_means(self.responses.groups[chosen], numbers[chosen])

    def ends(self, numbers: Floats) -> tuple[Floats, Floats]:
        """The same of the first and of the last steps; of neither where one has none."""
        before, after = (self.means(numbers, steps) for steps in (self.first, self.last))
        return (before, after) if len(before) and len(after) else (np.empty(0), np.empty(0))

    def change(self, numbers: Floats) -> Estimate:
        """From the first steps to the last."""
        return UNKNOWN if self.first == self.last else mean_difference(*self.ends(numbers))


def _joined(parts: Sequence[Floats]) -> Floats:
    return np.concatenate(parts).astype(np.float64) if parts else np.empty(0)
