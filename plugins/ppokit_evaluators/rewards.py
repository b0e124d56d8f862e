"""The recipe's rewards on held-out prompts: mean, standard error, and pass@k.

    pass@k = mean over prompts of 1 - C(n - c, k) / C(n, k)

with n scored responses to a prompt, c of which pass: the unbiased estimator of Chen et al. 2021,
arXiv:2107.03374, eq. 1. A response passes where its score is at least `threshold`. The standard error is that
of the mean over prompts, since responses to one prompt are not independent (Miller 2024, arXiv:2411.00640).

Differs: prompts with fewer than k scored responses are left out of pass@k. Where a reward has a `scale`,
weighted sums have another unit at every step, and only the raw scores are reported.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from pydantic import Field, PositiveInt, model_validator

from ppokit.plugin import CheckContext, Component, EvaluationView, Options, Rollout, hookimpl

if TYPE_CHECKING:
    from torch import Tensor


def pass_at(k: int, passed: Sequence[Sequence[bool]]) -> float:
    """Chance that at least one of k responses passes, over prompts with at least k; NaN where there are none.

    Args:
        passed: per prompt, whether each scored response passed.
    """
    chances = [
        1 - math.comb(len(prompt) - sum(prompt), k) / math.comb(len(prompt), k)
        for prompt in passed
        if len(prompt) >= k
    ]
    return sum(chances) / len(chances) if chances else math.nan


def standard_error(means: Sequence[float]) -> float:
    """Of the mean of one number per prompt, s / sqrt(n); NaN for fewer than two."""
    n = len(means)
    if n < 2:
        return math.nan
    mean = sum(means) / n
    return math.sqrt(sum((x - mean) ** 2 for x in means) / (n - 1) / n)


class HeldOutRewards(Options):
    samples: PositiveInt | None = Field(
        default=None, description="Responses per prompt; one greedy response each, if not given."
    )
    pass_at: tuple[PositiveInt, ...] = Field(
        default=(), description="k of each pass@k; at most samples. Needs threshold."
    )
    threshold: float | None = Field(
        default=None, description="A response whose score is at least this has passed."
    )

    @model_validator(mode="after")
    def _enough(self) -> HeldOutRewards:
        if self.pass_at and self.threshold is None:
            raise ValueError("pass_at needs threshold: the score from which on a response has passed")
        if self.threshold is not None and not self.pass_at:
            raise ValueError("threshold does nothing without pass_at")
        if self.pass_at and max(self.pass_at) > (self.samples or 1):
            raise ValueError(
                f"pass_at has {max(self.pass_at)}, more than the {self.samples or 1} samples per prompt"
            )
        return self

    def evaluate(self, view: EvaluationView, step: int) -> dict[str, float]:
        rollout = view.generate(n=self.samples)
        rewards = view.score(rollout)
        groups = rollout.group_ids.tolist()
        by_prompt = _by_prompt(rewards.scores, rewards.scored, groups)
        numbers = {f"score/{name}": scores.tolist() for name, scores in rewards.breakdown.items()}
        metrics = {"scored": float(rewards.scored.float().mean())}
        if view.scales_move:
            self._record(view, rollout, numbers)
            return metrics
        if self.threshold is not None:
            passed = {group: [x >= self.threshold for x in scores] for group, scores in by_prompt.items()}
            for k in self.pass_at:  # each response has that of its prompt
                numbers[f"pass@{k}"] = [pass_at(k, [passed[group]]) for group in groups]
        known = zip(rewards.scores.tolist(), rewards.scored.tolist(), strict=True)
        numbers["mean"] = [score if scored else math.nan for score, scored in known]
        self._record(view, rollout, numbers)
        if means := [sum(scores) / len(scores) for scores in by_prompt.values() if scores]:
            metrics |= {"mean": sum(means) / len(means), "std_error": standard_error(means)}
        if self.threshold is not None:
            metrics |= {f"pass@{k}": pass_at(k, list(passed.values())) for k in self.pass_at}
        return {name: number for name, number in metrics.items() if not math.isnan(number)}

    @staticmethod
    def _record(view: EvaluationView, rollout: Rollout, numbers: Mapping[str, Sequence[float]]) -> None:
        known = {name: [None if math.isnan(x) else x for x in own] for name, own in numbers.items()}
        view.record(rollout, known)


def _by_prompt(scores: Tensor, scored: Tensor, groups: Sequence[int]) -> dict[int, list[float]]:
    """Scores of each prompt."""
    prompts: dict[int, list[float]] = {group: [] for group in groups}
    for group, score, known in zip(groups, scores.tolist(), scored.tolist(), strict=True):
        if known:
            prompts[group].append(score)
    return prompts


def check(options: HeldOutRewards, context: CheckContext) -> Iterable[str]:
    if options.pass_at and context.scaled:
        yield (
            f"pass_at: {context.scaled[0]} gives the sum of the rewards another unit at every step, of which "
            "threshold cannot tell what has passed; leave one of them out"
        )
    if context.columns == ():
        yield "needs held-out prompts; expected evaluation.prompts"
    elif context.columns is not None:
        yield from context.check_rewards(context.columns)


@hookimpl
def ppokit_evaluators() -> list[Component]:
    return [Component("rewards", options=HeldOutRewards, check=check)]
