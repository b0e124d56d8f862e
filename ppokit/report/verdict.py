"""The verdict on a run: a sentence, and a table of the numbers that it rests on."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ppokit.config.evaluation_settings import GREEDY, SAMPLED, TEXTS
from ppokit.report.charts import short
from ppokit.report.findings import score_change
from ppokit.report.pool import Pool
from ppokit.report.ragged import Floats
from ppokit.report.reward_parts import rules
from ppokit.report.run_data import RunData, section
from ppokit.report.statistics import UNKNOWN, Estimate, mean_difference, step_names

_LABELS = {
    "kl/k1": "KL from the reference, nats per token",
    "policy/entropy": "Entropy, nats per token",
    "reward/excluded": "Responses without a reward",
    "rollout/failed": "Responses that the engine failed to give",
}
_GUARDS = {
    "rollout/logprob_gap": "Sampler against trainer, nats (guard)",
    "policy/ratio_std_at_start": "Ratio's deviation before a weight moves (guard)",
}

EVALUATED = 8  # numbers of evaluations in the table


@dataclass(frozen=True)
class Row:
    """A number in the verdict's table.

    Attributes:
        change: with its interval; NaN where it is unknown.
        values: by step, for the small curve.
        link: where its curve stands.
        is_shown: whether one run's own table has it; others are shown where runs are compared.
    """

    label: str
    before: float
    after: float
    change: Estimate
    values: Sequence[float]
    link: str
    detail: str = ""
    is_shown: bool = True


def headline(run: RunData, pool: Pool) -> str:
    """One sentence on whether the reward rose, and one on the evaluation, where there is one."""
    return f"{_reward_in_words(run, pool)}{_evaluation_in_words(run)}"


def _evaluation_in_words(run: RunData) -> str:
    """Of the number that matters most, unless it is one that every evaluation reports."""
    name = next(iter(evaluation_metrics(run)), "")
    values = run.series(name)[1]
    of_every = not name or name.split("/")[1] in (GREEDY, SAMPLED, TEXTS)
    if len(values) < 2 or (of_every and name != run.setting("evaluation", "best")):
        return ""
    change = _evaluated(run, name, is_shown=True).change
    verb = "rose" if change.low > 0 else "fell" if change.high < 0 else "has not changed surely:"
    if math.isnan(change.low):
        verb, ends = "went", ""
    else:
        ends = f" (95 % interval {_signed(change.low)} to {_signed(change.high)})"
    return (
        f" In evaluation, {name.removeprefix('eval/')} {verb} from {short(values[0])} to {short(values[-1])}"
        f"{ends}."
    )


def _reward_in_words(run: RunData, pool: Pool) -> str:
    (first, last), change = pool.ends(pool.responses.scores), score_change(pool)
    if not len(first):
        first, last = _ends(run, pool, "reward/mean")
        change = _row(run, pool, "reward/mean", "Reward").change
    if not len(first):
        return "No response was scored." if run.last_step else "No step has been done yet."
    before, after = float(first.mean()), float(last.mean())
    if pool.first == pool.last:
        return f"One step was done, with a mean reward of {short(before)}: too early to say."
    steps = f"from {step_names(pool.first)} to {step_names(pool.last)}"
    between = f"from {short(before)} to {short(after)}"
    if math.isnan(change.low):
        return f"Reward went {between}, {steps}; there is too little to say how sure that is."
    sure = f"({_signed(change.value)}, 95 % interval {_signed(change.low)} to {_signed(change.high)})"
    if change.low > 0:
        return f"Reward rose {between} {sure}, {steps}."
    if change.high < 0:
        return f"Reward fell {between} {sure}, {steps}."
    return f"Reward has not changed surely: {between} {sure}, {steps}."


def verdict_rows(run: RunData, pool: Pool) -> list[Row]:
    """Reward, evaluation, KL, length and so on, from the first steps to the last."""
    rows = _of_responses(run, pool, "reward/mean", "Reward", pool.responses.scores)
    rows += [_evaluated(run, name, is_shown=i < EVALUATED) for i, name in enumerate(evaluation_metrics(run))]
    for name, label, numbers in (
        ("response/length", "Length, tokens", pool.responses.lengths),
        ("response/finished", "Responses that end by themselves", pool.finished),
    ):
        rows += _of_responses(run, pool, name, label, numbers)
    rows += [_row(run, pool, name, label) for name, label in _LABELS.items() if run.series(name)[1]]
    rows += _failed_rewards(run, pool)
    for name, label in _GUARDS.items():
        values = run.series(name)[1]
        if values:
            rows.append(
                Row(
                    label,
                    values[0],
                    values[-1],
                    UNKNOWN,
                    values,
                    f"#curve:{name}",
                    f"largest {short(max(values))}, {_limit(run, name)}",
                )
            )
    return rows


def _failed_rewards(run: RunData, pool: Pool) -> list[Row]:
    """Shares of failed and abstained rewards; of those that never did so too, for runs that are compared."""
    names = run.measured()
    failing = [n for n in names if n.startswith("reward/") and n.endswith(("/failed", "/abstained"))]
    others = [f"reward/{reward}/{end}" for reward in rules(run) for end in ("failed", "abstained")]
    return [
        replace(
            _row(run, pool, name, "{}: {} rewards".format(*name.removeprefix("reward/").rsplit("/", 1))),
            is_shown=name in failing,
        )
        for name in sorted({*failing, *others})
        if run.series(name)[1]
    ]


def _limit(run: RunData, name: str) -> str:
    if name != "rollout/logprob_gap":
        by_sampler = run.setting("update", "old_logprobs") == "sampler"
        return "by what sampler and trainer differ" if by_sampler else "0 is right"
    limit = run.setting("rollout", "max_logprob_gap")
    return f"limit {short(limit)}" if isinstance(limit, int | float) else "limit: what the dtype explains"


def evaluation_metrics(run: RunData) -> list[str]:
    """Names of what was measured: the recipe's `best`, and what evaluators measure, with a gain and without.

    Then what every evaluation reports of its responses and of texts; last what never changes, as settings do,
    and what says how much an evaluation is worth.
    """
    names = [name for name in run.measured() if name.startswith("eval/")]
    own = [name for name in names if not is_gain(name, names)]
    best = section(run.recipe, "evaluation").get("best")

    def says_little(name: str) -> bool:
        values = run.series(name)[1]
        constant = len(values) > 1 and len(set(values)) == 1 and f"{name}/gain" not in names
        return constant or name.endswith(("/warning", "/scored", "/std_error"))

    by_weight = sorted(own, key=lambda name: evaluation_rank(name, names, best))
    return sorted(by_weight, key=lambda name: name != best and says_little(name))


def is_gain(name: str, names: Collection[str]) -> bool:
    """Whether a metric is how another one has changed, the bounds of that, or of how many prompts it is."""
    measured, _, last = name.rpartition("/")
    return measured in names and last in ("gain", "gain_low", "gain_high", "gain_prompts", "gain_of")


def evaluation_rank(name: str, names: Collection[str], best: object) -> tuple[bool, bool, bool]:
    """What an evaluation's numbers are sorted by: `best` first, and evaluators' own, those with a gain."""
    return name != best, name.split("/")[1] in (GREEDY, SAMPLED, TEXTS), f"{name}/gain" not in names


def _evaluated(run: RunData, name: str, *, is_shown: bool) -> Row:
    """From the first evaluation to the last, with the paired interval that the run itself computed."""
    steps, values = run.series(name)
    ends = [_at(run, f"{name}/gain{end}", steps[-1]) for end in ("", "_low", "_high")]
    change = Estimate(values[-1] - values[0], math.nan, math.nan) if len(values) > 1 else UNKNOWN
    if not np.isnan(ends).any():
        change = Estimate(*ends)
    evaluation = section(run.recipe, "evaluation")
    is_best, lowest = evaluation.get("best") == name, evaluation.get("best_is") == "lowest"
    best = (np.argmin if is_best and lowest else np.argmax)(np.array(values))
    detail = f"at step {steps[0]}"
    if len(values) > 1:
        which = "best" if is_best else "highest"
        detail = f"from step {steps[0]} to {steps[-1]}, {which} {short(values[best])} at {steps[best]}"
    if change.low == change.low and (prompts := _paired(run, name, values[-1] - values[0], change.value)):
        detail = f"{prompts}; {detail}"
    return Row(
        f"Evaluation {name.removeprefix('eval/')}",
        values[0],
        values[-1] if len(values) > 1 else math.nan,
        change,
        values,
        f"#curve:{name}",
        detail,
        is_shown,
    )


def _paired(run: RunData, name: str, difference: float, gain: float) -> str:
    """Over which prompts a gain is, where that is not the difference of the two values beside it.

    A gain is of the prompts that have a number both times. A value may be of more of them, or, as of a
    corpus, no mean over prompts.
    """
    last = run.series(name)[0][-1]
    prompts, of = (_at(run, f"{name}/gain_{end}", last) for end in ("prompts", "of"))
    if prompts > 0 and of > 0:
        return f"over the {prompts:.0f} of {of:.0f} prompts with a number both times"
    if abs(gain - difference) <= 0.005 * max(abs(gain), abs(difference)):
        return ""
    return "mean over prompts with a number both times"


def _at(run: RunData, name: str, step: int) -> float:
    """A metric's number at a step; NaN where it has none."""
    return dict(zip(*run.series(name), strict=True)).get(step, math.nan)


def _of_responses(run: RunData, pool: Pool, name: str, label: str, numbers: Floats) -> list[Row]:
    """From the responses of the first and the last steps, so that the interval counts prompts."""
    values = run.series(name)[1]
    before, after = pool.ends(numbers)
    if not len(before):
        return [_row(run, pool, name, label)] if values else []
    link = f"#curve:{name}" if values else "#points"
    return [Row(label, float(before.mean()), float(after.mean()), pool.change(numbers), values, link)]


def _row(run: RunData, pool: Pool, name: str, label: str) -> Row:
    """The mean of the first and the last steps; an interval where there are three of each."""
    before, after = _ends(run, pool, name)
    change = UNKNOWN if pool.first == pool.last else mean_difference(before, after)
    if min(len(before), len(after)) < 3:
        change = Estimate(change.value, math.nan, math.nan)
    first, last = (float(own.mean()) if len(own) else math.nan for own in (before, after))
    return Row(label, first, last, change, run.series(name)[1], f"#curve:{name}")


def _ends(run: RunData, pool: Pool, name: str) -> tuple[Floats, Floats]:
    """A metric's numbers at the first and at the last steps."""
    by_step = dict(zip(*run.series(name), strict=True))
    first, last = ([by_step[s] for s in steps if s in by_step] for steps in (pool.first, pool.last))
    return np.array(first), np.array(last)


def _signed(value: float) -> str:
    return f"{value:+.3g}"
