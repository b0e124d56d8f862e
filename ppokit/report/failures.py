"""Every failed or abstained reward with its cause, and how long each provider took."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ppokit.plugin.visible_text import visible
from ppokit.report.run_data import RunData
from ppokit.report.step_file import Samples

SHOWN = 200
LONGEST = 400


@dataclass(frozen=True)
class Failure:
    """A reward that was not given.

    Attributes:
        seconds: of the provider's longest call in that step; None where nobody knows.
        sample: position among the page's samples; None where the page does not hold it.
    """

    step: int
    id: str
    provider: str
    outcome: str
    reason: str
    seconds: float | None
    sample: int | None


@dataclass(frozen=True)
class Cause:
    """Failures of one provider for one reason."""

    provider: str
    outcome: str
    reason: str
    count: int
    first: int
    last: int


def failures(run: RunData, index: dict[tuple[int, int], int]) -> tuple[list[Cause], list[Failure], int]:
    """Causes with their counts, the latest failures, and how many those were before a cut.

    Args:
        index: positions of the page's samples by step and row.
    """
    counts: Counter[tuple[str, str, str]] = Counter()
    ends: dict[tuple[str, str, str], tuple[int, int]] = {}
    calls = {int(line["step"] or 0): line for line in run.metrics}
    rows: list[Failure] = []
    for samples in run.steps:
        for row, provider, outcome, reason in _of_step(samples):
            cause = (provider, outcome, reason)
            counts[cause] += 1
            ends[cause] = (ends.get(cause, (samples.step, 0))[0], samples.step)
            seconds = calls.get(samples.step, {}).get(f"time/reward/{provider}/longest_s")
            name, sample = visible(samples.ids[row], 100), index.get((samples.step, row))
            rows.append(Failure(samples.step, name, *cause, seconds, sample))
    causes = [Cause(*cause, count, *ends[cause]) for cause, count in counts.most_common(SHOWN)]
    rows.sort(key=lambda failure: (failure.outcome != "failed", failure.sample is None, -failure.step))
    return causes, rows[:SHOWN], len(rows)


def _of_step(samples: Samples) -> Iterator[tuple[int, str, str, str]]:
    """Row, provider, outcome and reason of what was not scored."""
    for name, outcomes in samples.reward_outcomes.items():
        reasons = samples.reasons.get(name, [""] * len(samples))
        for row, outcome in enumerate(outcomes):
            if outcome in ("failed", "abstained") and samples.outcomes[row] != "failed":
                yield row, visible(name, 200), outcome, visible(reasons[row], LONGEST)
    for row, outcome in enumerate(samples.outcomes):
        if outcome == "failed":
            yield row, "the rollout engine", "failed", "no response"


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
