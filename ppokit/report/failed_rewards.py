"""Whether rewards failed, in training and in evaluations, and how often."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ppokit.report.finding import Finding
from ppokit.report.pool import Pool
from ppokit.report.run_data import RunData
from ppokit.report.statistics import share_interval, step_names


def failed_in_training(run: RunData, pool: Pool) -> Iterator[Finding]:
    """By the samples; of steps whose samples were not read, by their metrics."""
    counts: dict[str, list[int]] = {}
    for samples in run.steps:
        answered = sum(outcome != "failed" for outcome in samples.outcomes)
        for name in samples.reward_outcomes:
            entry = counts.setdefault(name, [0, 0])
            entry[0] += sum(outcome == "failed" for _, outcome in samples.unscored(name))
            entry[1] += answered
    for name, (failed, asked) in counts.items():
        about = ""
        if run.skipped and (shares := run.series(f"reward/{name}/failed")[1]):
            asked = round(asked / len(run.steps) * len(shares))
            failed, about = round(float(np.mean(shares)) * asked), "about "
        if failed:
            share = share_interval(failed, asked)
            digits = "{:.1f}" if share.value >= 1e-3 else "{:.1g}"
            yield Finding(
                "warning" if share.low > 0.02 else "note",
                f"The reward {name!r} failed for {about}{failed:,} of {asked:,} responses "
                f"({digits.format(100 * share.value)} %).",
                "#failures",
            )


def failed_in_evaluations(run: RunData, pool: Pool) -> Iterator[Finding]:
    """A warning however few: an evaluation asks for few responses, and its values are then of fewer."""
    counts: dict[tuple[str, str], list[int]] = {}
    steps: dict[tuple[str, str], list[int]] = {}
    for samples in run.failing:
        if samples.asked_in == "training":
            continue
        for name, outcomes in samples.reward_outcomes.items():
            key = (samples.asked_in.removeprefix("evaluation "), name)
            failed = sum(outcome == "failed" for _, outcome in samples.unscored(name))
            entry = counts.setdefault(key, [0, 0])
            entry[0] += failed
            entry[1] += sum(
                bool(own) and response != "failed"
                for own, response in zip(outcomes, samples.outcomes, strict=True)
            )
            if failed:
                steps.setdefault(key, []).append(samples.step)
    for (evaluator, name), (failed, asked) in counts.items():
        if failed:
            so = "its values are those of the others" if failed < asked else "it gave no value"
            yield Finding(
                "warning",
                f"In the evaluation by {evaluator!r} the reward {name!r} failed for {failed:,} of {asked:,} "
                f"responses, after {step_names(steps[evaluator, name])}: {so}.",
                "#failures",
            )
