"""Every failed or abstained reward with its cause and its seconds, and how long each provider took."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ppokit.plugin.visible_text import visible
from ppokit.report.choose import in_turn
from ppokit.report.run_data import RunData
from ppokit.report.step_file import Samples

SHOWN = 200
LONGEST = 400


@dataclass(frozen=True)
class Failure:
    """A reward that was not given.

    Attributes:
        asked_in: training, or an evaluation.
        seconds: of the call that failed or abstained; NaN where nobody knows.
        sample: position among the page's samples; None where the page does not hold it.
    """

    step: int
    id: str
    asked_in: str
    provider: str
    outcome: str
    reason: str
    seconds: float
    sample: int | None


@dataclass(frozen=True)
class Cause:
    """Failures of one provider for one reason.

    Attributes:
        first, last: steps.
        median, longest: seconds of their calls; NaN where nobody knows.
    """

    asked_in: str
    provider: str
    outcome: str
    reason: str
    count: int
    first: int
    last: int
    median: float
    longest: float


def failures(run: RunData, index: dict[tuple[int, int], int]) -> tuple[list[Cause], list[Failure], int]:
    """Causes, the most frequent first; some failures of each in turn, the latest; and how many there are.

    Args:
        index: positions of the page's samples by step and row.
    """
    by_cause: dict[tuple[str, str, str, str], list[Failure]] = {}
    for samples in sorted([*run.steps, *run.failing], key=lambda samples: samples.step):
        for row, why, seconds in _of_step(samples):
            name, asked_in = visible(samples.ids[row], 100), visible(samples.asked_in, 200)
            sample = index.get((samples.step, row)) if asked_in == "training" else None
            cause = (asked_in, *why)
            failure = Failure(samples.step, name, *cause, seconds, sample)
            by_cause.setdefault(cause, []).append(failure)
    causes = [
        Cause(*cause, len(own), own[0].step, own[-1].step, *_seconds(own)) for cause, own in by_cause.items()
    ]
    lists = [sorted(own, key=lambda each: (each.sample is None, -each.step)) for own in by_cause.values()]
    shown = sorted(in_turn(lists, SHOWN), key=lambda each: (each.outcome != "failed", -each.step))
    return sorted(causes, key=lambda cause: -cause.count), shown, sum(map(len, lists))


def _seconds(group: Sequence[Failure]) -> tuple[float, float]:
    """Median and longest."""
    known = [each.seconds for each in group if not math.isnan(each.seconds)]
    return (float(np.median(known)), max(known)) if known else (math.nan, math.nan)


def _of_step(samples: Samples) -> Iterator[tuple[int, tuple[str, str, str], float]]:
    """Row, cause (provider, outcome and reason) and seconds of what was not scored."""
    for name in samples.reward_outcomes:
        reasons = samples.reasons.get(name, [""] * len(samples))
        seconds = samples.seconds.get(name, np.full(len(samples), np.nan)).tolist()
        for row, outcome in samples.unscored(name):
            yield row, (visible(name, 200), outcome, visible(reasons[row], LONGEST)), seconds[row]
    for row, outcome in enumerate(samples.outcomes):
        if outcome == "failed":
            yield row, ("the rollout engine", "failed", "no response"), math.nan


def latencies(run: RunData) -> Sequence[tuple[str, float, float, float]]:
    """Of each provider its median, 95th percentile and longest call in seconds, over all steps."""
    names = [name for name in run.measured() if name.startswith("time/reward/")]
    out = []
    for provider in dict.fromkeys(name.removeprefix("time/reward/").rpartition("/")[0] for name in names):
        medians, p95s, longest = (
            run.series(f"time/reward/{provider}/{end}_s")[1] for end in ("median", "p95", "longest")
        )
        if medians and p95s and longest:
            out.append((visible(provider, 60), sorted(medians)[len(medians) // 2], max(p95s), max(longest)))
    return out
