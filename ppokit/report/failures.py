"""Every failed or abstained reward with its cause, and how long each provider took."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from ppokit.plugin.visible_text import visible
from ppokit.report.run_data import RunData

SHOWN = 200
LONGEST = 400


@dataclass(frozen=True)
class Failure:
    """A reward that was not given.

    Attributes:
        sample: position among the page's samples; None where the page does not hold it.
    """

    step: int
    id: str
    provider: str
    outcome: str
    reason: str
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
    """Causes with their counts, the latest failures, and how many those were before a cut."""
    counts: Counter[tuple[str, str, str]] = Counter()
    ends: dict[tuple[str, str, str], tuple[int, int]] = {}
    rows: list[Failure] = []
    for samples in run.steps:
        for name, outcomes in samples.reward_outcomes.items():
            reasons = samples.reasons.get(name, [""] * len(outcomes))
            for row, outcome in enumerate(outcomes):
                if outcome not in ("failed", "abstained") or samples.outcomes[row] == "failed":
                    continue
                key = (name, outcome, reasons[row])
                counts[key] += 1
                ends[key] = (ends.get(key, (samples.step, 0))[0], samples.step)
                rows.append(
                    Failure(
                        samples.step,
                        visible(samples.ids[row], 100),
                        visible(name, 60),
                        outcome,
                        visible(reasons[row], LONGEST),
                        index.get((samples.step, row)),
                    )
                )
        for row, outcome in enumerate(samples.outcomes):
            if outcome == "failed":
                key = ("the rollout engine", "failed", "no response")
                counts[key] += 1
                ends[key] = (ends.get(key, (samples.step, 0))[0], samples.step)
                rows.append(
                    Failure(
                        samples.step, visible(samples.ids[row], 100), *key, index.get((samples.step, row))
                    )
                )
    causes = [
        Cause(visible(name, 60), outcome, visible(reason, LONGEST), count, *ends[name, outcome, reason])
        for (name, outcome, reason), count in counts.most_common(SHOWN)
    ]
    rows.sort(key=lambda failure: (failure.outcome != "failed", failure.sample is None, -failure.step))
    return causes, rows[:SHOWN], len(rows)


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
