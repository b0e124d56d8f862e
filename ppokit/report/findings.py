"""What a person should look at in a run: sentences, each from a statistic with its uncertainty.

A finding is kept back where the numbers do not show it surely: one that fires by chance is worse than none.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping

import numpy as np

from ppokit.report.failed_rewards import failed_in_evaluations, failed_in_training
from ppokit.report.finding import Finding
from ppokit.report.pool import Pool
from ppokit.report.reward_parts import rules
from ppokit.report.run_data import RunData, section
from ppokit.report.run_warnings import warned
from ppokit.report.statistics import (
    Estimate,
    length_share,
    mean_interval,
    share_interval,
    step_names,
    trend,
    variance_shares,
    window,
)

LENGTH_SHARE = 0.5
FLAT_SHARE = 1 / 3
ONE_PROVIDER = 0.95
FEWEST_GROUPS = 6
FEWEST_STEPS = 5


Check = Callable[[RunData, Pool], Iterator[Finding]]


def findings(run: RunData, pool: Pool) -> list[Finding]:
    """All of a run, warnings first."""
    fired = [finding for _, check in CHECKS for finding in check(run, pool)]
    return sorted(fired, key=lambda finding: finding.level != "warning")


def score_change(pool: Pool) -> Estimate:
    """Of the mean score from the first steps to the last; NaN where there are no samples of both."""
    return pool.change(pool.responses.scores)


def reward_rise(run: RunData, pool: Pool) -> Estimate:
    """The score's change; that of a line through `reward/mean` where there are no samples."""
    change = score_change(pool)
    return trend(*run.series("reward/mean")) if math.isnan(change.value) else change


def _falls_behind(run: RunData, pool: Pool) -> Iterator[Finding]:
    """The reward rises while held-out ratings, or the evaluation that matters, fall."""
    rise = reward_rise(run, pool)
    if not rise.low > 0:
        return
    names = [n for n in run.measured() if n.startswith("eval/") and n.endswith("_spearman")]
    curves = {name: run.series(name) for name in sorted(names)}
    curves = {name: (steps, values) for name, (steps, values) in curves.items() if len(values) > 1}
    warned = _warned_of(run, {name: values[-1] - values[0] for name, (_, values) in curves.items()})
    for name, (steps, values) in curves.items():
        fall = trend(steps, values)
        by_canary = name in warned and values[-1] < values[0]
        if fall.high < 0 or by_canary:
            how = (
                f"by {_number(fall.value)} {_interval(fall)}"
                if fall.high < 0
                else f"from {_number(values[0])} to {_number(values[-1])}, by more than its standard error"
            )
            yield Finding(
                "warning",
                f"Reward rises while the canary falls: on held-out ratings {name} fell {how}. The policy may "
                "be learning to please the reward, not people.",
                f"#curve:{name}",
            )
    evaluation = section(run.recipe, "evaluation")
    best, sign = evaluation.get("best"), -1 if evaluation.get("best_is") == "lowest" else 1
    if isinstance(best, str):
        (of_steps, low), (_, high) = (run.series(f"{best}/gain_{end}") for end in ("low", "high"))
        is_of_last = of_steps[-1:] == run.series(best)[0][-1:]
        if is_of_last and low and high and (high[-1] < 0 if sign > 0 else low[-1] > 0):
            yield Finding(
                "warning",
                f"Reward rises while the evaluation gets worse: {best} changed since step 0 by "
                f"{_number(low[-1])} to {_number(high[-1])} (95 % interval).",
                f"#curve:{best}",
            )


def _warned_of(run: RunData, changes: Mapping[str, float]) -> set[str]:
    """Correlations that a canary's last evaluation warned of.

    An older canary has one warning for both: then it is surely of the one that fell furthest.

    Args:
        changes: of each correlation since the first evaluation.
    """
    warned, fallen = set(), set()
    for name in sorted(changes, key=changes.__getitem__):
        canary = name.rpartition("/")[0]
        own = run.series(f"{name}/warning")[1]
        flags = own or ([] if canary in fallen else run.series(f"{canary}/warning")[1])
        fallen.add(canary)
        if flags and flags[-1] > 0:
            warned.add(name)
    return warned


def _length(run: RunData, pool: Pool) -> Iterator[Finding]:
    share = length_share(pool.responses, pool.first, pool.last)
    if share is not None and share.value >= LENGTH_SHARE and share.low >= LENGTH_SHARE / 2:
        ends = f"{_part(share.low)} to {_part(share.high)}" if _part(share.low) != "all" else "all of it"
        gain = "gain" if score_change(pool).value > 0 else "loss"
        yield Finding(
            "warning",
            f"Length explains {_part(share.value)} of the {gain} in reward (95 % interval {ends}): within a "
            "prompt the reward moves with length, and length has changed.",
            "#points",
        )


def _flat_groups(run: RunData, pool: Pool) -> Iterator[Finding]:
    """Groups whose responses all have the same reward."""
    chosen = pool.of_steps(pool.last) & np.isfinite(pool.totals)
    if not chosen.any():
        return
    totals = pool.totals[chosen]
    _, group = np.unique(pool.responses.groups[chosen], return_inverse=True)
    size = np.bincount(group)
    highest, lowest = np.full(len(size), -np.inf), np.full(len(size), np.inf)
    np.maximum.at(highest, group, totals)
    np.minimum.at(lowest, group, totals)
    groups = int((size > 1).sum())
    flat = int(((highest - lowest <= 1e-6 * np.maximum(1.0, np.abs(highest))) & (size > 1)).sum())
    if groups < FEWEST_GROUPS or flat / groups < FLAT_SHARE:
        return
    share = share_interval(flat, groups)
    yield Finding(
        "warning" if share.low >= FLAT_SHARE else "note",
        f"{flat} of {groups} groups of {step_names(pool.last)} have no spread: all their responses have the "
        "same reward, so that within them there is no better and worse to learn from.",
        "#groups",
    )


def _clip_fraction(run: RunData, pool: Pool) -> Iterator[Finding]:
    steps, values = run.series("policy/clip_fraction")
    passes = dict(zip(*run.series("update/passes"), strict=True))
    of_several = [(s, v) for s, v in zip(steps, values, strict=True) if passes.get(s, 0.0) > 1]
    last = of_several[-max(FEWEST_STEPS, window(steps)) :]
    if len(last) >= FEWEST_STEPS and all(value == 0 for _, value in last):
        yield Finding(
            "note",
            f"Clip fraction 0 in each of the last {len(last)} steps, with several passes per step: the "
            "update never comes near the clip range; the learning rate may be too small.",
            "#curve:policy/clip_fraction",
        )


def _explained_variance(run: RunData, pool: Pool) -> Iterator[Finding]:
    steps, values = run.series("value/explained_variance")
    last = mean_interval(np.array(values[-max(FEWEST_STEPS, window(steps)) :]))
    if len(values) >= FEWEST_STEPS and last.high < 0:
        yield Finding(
            "warning",
            f"Explained variance below 0 at the end, {_number(last.value)} {_interval(last)}: the values "
            "predict the returns worse than their mean would, and so make the advantages noisier.",
            "#curve:value/explained_variance",
        )


def _one_provider(run: RunData, pool: Pool) -> Iterator[Finding]:
    silent = {name for name, rule in rules(run).items() if not rule.weight}
    parts = {name: scores for name, scores in pool.rewards.items() if name not in silent}
    shares = variance_shares(pool.totals, parts, pool.responses.steps)
    for name, share in (shares or {}).items():
        if share >= ONE_PROVIDER:
            yield Finding(
                "note",
                f"One provider decides {_percent(min(share, 1.0))} of the variance: {name!r}. The others "
                "hardly change which response is the better one.",
                "#distributions",
            )


def _entropy(run: RunData, pool: Pool) -> Iterator[Finding]:
    steps, values = run.series("policy/entropy")
    if len(values) < FEWEST_STEPS:
        return
    count = window(steps)
    before, after = float(np.mean(values[:count])), float(np.mean(values[-count:]))
    if before > 0 and after < before / 4 and trend(steps, values).high < 0:
        yield Finding(
            "warning",
            f"Entropy fell from {_number(before)} to {_number(after)} nats per token: the policy hardly "
            "tries anything else any more.",
            "#curve:policy/entropy",
        )


def _truncated(run: RunData, pool: Pool) -> Iterator[Finding]:
    steps, values = run.series("response/finished")
    if not values:
        return
    count = window(steps)
    before, after = float(np.mean(values[:count])), float(np.mean(values[-count:]))
    if after < 0.5 and before - after >= 0.2 and trend(steps, values).high < 0:
        yield Finding(
            "warning",
            f"The share of responses that end by themselves fell from {_percent(before)} to "
            f"{_percent(after)}: the others are truncated at rollout.max_new_tokens.",
            "#curve:response/finished",
        )
    elif after < 0.05:
        yield Finding(
            "note",
            f"{_percent(1 - after)} of the last responses are truncated at rollout.max_new_tokens: what "
            "their end would have been is not scored.",
            "#curve:response/finished",
        )


CHECKS: tuple[tuple[str, Check], ...] = (
    ("reward rises while the canary or the evaluation falls", _falls_behind),
    ("length explains half of the gain", _length),
    ("a group in three has no spread", _flat_groups),
    ("clip fraction 0", _clip_fraction),
    ("explained variance below 0", _explained_variance),
    ("one provider decides 95 % of the variance", _one_provider),
    ("rewards failed", failed_in_training),
    ("rewards failed in evaluations", failed_in_evaluations),
    ("entropy collapsed", _entropy),
    ("responses are truncated", _truncated),
    ("what the run itself warned of", warned),
)


def _number(value: float) -> str:
    return f"{value:.3g}"


def _part(share: float) -> str:
    """More than all of a gain is explained where without its cause there had been a loss."""
    return _percent(share) if share < 0.995 else "all"


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def _interval(estimate: Estimate) -> str:
    return f"(95 % interval {_number(estimate.low)} to {_number(estimate.high)})"
