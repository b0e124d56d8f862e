"""Evaluate during training: ask the recipe's evaluators when it is due, and know the best policy so far."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch

from ppokit.errors import PluginError, plugin_call
from ppokit.evaluation.gains import by_prompt, paired_gain
from ppokit.evaluation.responses import measure_responses
from ppokit.evaluation.texts import measure_texts
from ppokit.messages import listed, suggest
from ppokit.plugin.reductions import as_numbers
from ppokit.run.reward_watch import abstentions, failures
from ppokit.training.contracts import component_metrics

if TYPE_CHECKING:
    from ppokit.config.components import BuiltComponent
    from ppokit.config.evaluation_settings import EvaluationSettings
    from ppokit.evaluation.texts import HeldOutTexts
    from ppokit.evaluation.view import HeldOutPrompts, HeldOutView
    from ppokit.plugin.evaluating import Recorded
    from ppokit.plugin.protocols import Need


@dataclass(frozen=True)
class Result:
    """What an evaluation brought.

    Attributes:
        metrics: `eval/<name>/...`.
        warnings: sentences for a person.
        best: the value by which the policy is the best so far (`evaluation.best`); None where it is not.
        records: single responses, with their numbers and what their rewards came to.
    """

    metrics: dict[str, float]
    warnings: list[str]
    best: float | None
    records: list[Recorded]


@dataclass
class Evaluation:
    """The evaluations of a run.

    Attributes:
        settings: the recipe's section.
        steps: of the run.
        evaluators: in the recipe's order.
        held_out: the recipe's held-out prompts.
        texts: the recipe's texts of no prompt.
        best: the best value so far of the recipe's `best`, on the main process.
        waited: evaluations since then; the main process's, which the trainer shares.
        measured: the step that was evaluated last.
        first: what the first evaluation recorded by prompt, by `<evaluator>/<name>`, on the main process.
    """

    settings: EvaluationSettings
    steps: int
    evaluators: Sequence[BuiltComponent]
    held_out: HeldOutPrompts
    texts: HeldOutTexts | None = None
    best: float | None = None
    waited: int = 0
    measured: int | None = None
    first: dict[str, dict[int, float]] = field(default_factory=dict)

    @property
    def data(self) -> dict[str, Any]:
        """What it evaluates on, by its name in a run's provenance; None where there is none.

        Values of two evaluations are comparable where it is the same.
        """
        prompts = [list(self.held_out.texts), list(map(dict, self.held_out.rows))]
        texts = None if self.texts is None else [list(self.texts.beginnings), list(self.texts.rests)]
        return {"held_out": prompts if self.held_out.texts else None, "texts": texts}

    @property
    def needs(self) -> frozenset[Need]:
        """What any evaluator needs."""
        return frozenset(need for evaluator in self.evaluators for need in evaluator.needs)

    def is_due(self, step: int) -> bool:
        """Whether the policy after so many steps is to be evaluated, and was not yet."""
        return step != self.measured and (step % self.settings.every == 0 or step == self.steps)

    @property
    def exhausted(self) -> bool:
        """Whether the recipe's `patience` ends the run."""
        return self.settings.patience is not None and self.waited >= self.settings.patience

    def measure(self, step: int, view: HeldOutView, part: Callable[[], object] = lambda: None) -> Result:
        """Ask every evaluator. Called on every process; the main one's metrics are kept.

        Args:
            step: that was done last.
            view: of the policy.
            part: called as each further part begins: the next evaluator, responses, texts.

        Raises:
            PluginError: an evaluator failed or reported what is no number, or none reports `best`.
        """
        metrics: dict[str, float] = {}
        # An evaluator that draws must not change what training draws after it.
        with torch.random.fork_rng():
            for i, evaluator in enumerate(self.evaluators):
                if i:
                    part()
                with plugin_call(evaluator.where, "evaluate"):
                    own = replace(view, seen=evaluator.needs, evaluator=evaluator.name)
                    reported = evaluator.instance.evaluate(own, step)
                checked = component_metrics(
                    reported, evaluator.where, responses=1, prefix=f"eval/{evaluator.name}/", taken=metrics
                )
                metrics.update(as_numbers(checked))
            part()
            metrics.update(measure_responses(view.answered, view))
            if self.texts is not None:
                part()
                metrics.update(measure_texts(self.texts, view))
        records = view.kept()
        _warn_of_rewards(records, view, first=self.measured is None)
        if view.is_main:
            self._add_gains(records, metrics)
        self.measured = step
        best: float | None = None
        if view.is_main and self.settings.best is not None:
            if self._is_best(metrics, self.settings.best):
                best, self.waited = self.best, 0
            else:
                self.waited += 1
            if self.exhausted:
                view.warn(
                    f"{self.settings.best} has not been better than {self.best:.4g} in {self.waited} "
                    "evaluations, so that the run ends here (evaluation.patience)"
                )
        return Result(metrics, view.warnings, best, records)

    def _add_gains(self, records: Sequence[Recorded], metrics: dict[str, float]) -> None:
        """What was recorded of single responses: its mean, and its change since the first evaluation."""
        for record in records:
            groups = record.rollout.group_ids.tolist()
            for name, numbers in record.values.items():
                key, now = f"{record.evaluator}/{name}", by_prompt(groups, numbers)
                if now:
                    metrics.setdefault(f"eval/{key}", sum(now.values()) / len(now))
                if self.measured is None:
                    self.first[key] = now
                elif gain := paired_gain(self.first.get(key, {}), now):
                    metrics[f"eval/{key}/gain"] = gain.mean
                    metrics[f"eval/{key}/gain_low"] = gain.low
                    metrics[f"eval/{key}/gain_high"] = gain.high
                    if gain.prompts < (asked := len(set(groups))):  # what the means are of, or one of them
                        metrics[f"eval/{key}/gain_prompts"] = gain.prompts
                        metrics[f"eval/{key}/gain_of"] = asked

    def _is_best(self, metrics: Mapping[str, float], name: str) -> bool:
        if name not in metrics:
            if self.best is not None:  # as where nothing was scored this time
                return False
            raise PluginError(
                f"evaluation.best: got {name!r}; expected a metric of this recipe's evaluation: "
                f"{listed(metrics)}{suggest(name, metrics) or '.'}"
            )
        sign = 1 if self.settings.best_is == "highest" else -1
        better = self.best is None or sign * metrics[name] > sign * self.best
        if better:
            self.best = metrics[name]
        return better

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best, "waited": self.waited, "measured": self.measured, "first": self.first}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.best, self.waited, self.measured = state["best"], state["waited"], state["measured"]
        self.first = dict(state["first"])


def _warn_of_rewards(records: Sequence[Recorded], view: HeldOutView, *, first: bool) -> None:
    """Say which rewards failed; and in a run's first evaluation, which have nothing to say of its prompts."""
    for record in records:
        if record.rewards is not None:
            texts = [*failures(record.rewards)]
            texts += abstentions(record.rewards, record.rollout) if first else []
            for text in texts:
                view.warn(f"in the evaluation by {record.evaluator!r}, {text}")
