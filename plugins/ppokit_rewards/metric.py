"""A metric of Hugging Face `evaluate`, such as ROUGE, of each response against columns of its row.

    {use: metric, metric: rouge, key: rougeL, reference: summary}

`metric` is found as for the evaluator of that name: rouge, sacrebleu, chrf, exact_match and accuracy are part
of ppokit and need no network. The metric must have a number per response; one that has a number for a whole
set alone, as F1 of labels, is refused.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pydantic import Field

from ppokit.plugin import (
    BuildContext,
    CheckContext,
    Component,
    Example,
    Options,
    PluginError,
    RewardOutput,
    Rollout,
    hookimpl,
)
from ppokit_metrics.finding import code_of, problems
from ppokit_metrics.loading import Metric
from ppokit_metrics.references import Name, Reference, reference_of, reference_problems


class MetricRewardOptions(Options):
    metric: Name = Field(
        description="rouge, sacrebleu, chrf, exact_match or accuracy; the path of a script, "
        "package:DISTRIBUTION/FOLDER, or a name on the hub."
    )
    reference: Reference | None = Field(
        default=None, description="Column to compare with, or several; none for metrics of one text."
    )
    key: Name | None = Field(
        default=None, description="Which of the metric's numbers is the score; needed where it has several."
    )
    config: str | None = Field(default=None, description="Configuration of the metric, such as a language.")
    arguments: dict[str, Any] = Field(
        default_factory=dict, description="Further arguments of the metric's compute."
    )


class MetricReward:
    def __init__(self, options: MetricRewardOptions, context: BuildContext) -> None:
        self.options = options
        self.metric = Metric(options.metric, options.config, options.arguments)
        self.metric.check_references(options.reference is not None)

    def score(self, rollout: Rollout) -> RewardOutput:
        references = [self._reference(row) for row in rollout.rows]
        usable = [i for i, reference in enumerate(references) if not isinstance(reference, ValueError)]
        values: list[float | BaseException | None] = [
            reference if isinstance(reference, ValueError) else None for reference in references
        ]
        if usable:
            scores = self.metric.per_response(
                [rollout.responses[i] for i in usable],
                None if self.options.reference is None else [references[i] for i in usable],
            )
            for i, score in zip(usable, scores[self._key(scores)], strict=True):
                values[i] = score
        return RewardOutput.from_values(values)

    def _reference(self, row: Any) -> Any:
        """What a response is compared with; an error where its row has nothing."""
        columns = self.options.reference
        if columns is None:
            return None
        reference = reference_of(row, columns)
        return ValueError(f"its row has nothing in {columns!r}") if reference is None else reference

    def _key(self, scores: dict[str, list[float]]) -> str:
        key = self.options.key or (next(iter(scores)) if len(scores) == 1 else None)
        if key not in scores:
            asked = "several numbers" if key is None else f"no number {key!r} per response"
            raise PluginError(
                f"key: the metric {self.metric.name!r} has {asked}; expected one of {', '.join(scores)}"
            )
        return key


def check(options: MetricRewardOptions, context: CheckContext) -> Iterable[str]:
    yield from reference_problems(
        context,
        options.reference,
        [] if options.metric == "f1" else [options.metric],  # which is refused below, in fewer words
        options.config,
        options.arguments,
        of="prompts",
        per_response=True,
    )
    if options.metric == "f1":
        yield (
            "metric: f1 is a number of a whole set of labels, and a reward needs one per response; expected "
            "accuracy or exact_match, or for words in common rouge with key: rouge1"
        )
    elif options.metric == "rouge" and options.key is None:
        yield "key: rouge has several numbers; expected rouge1, rouge2, rougeL or rougeLsum"
    yield from problems(options.metric)


@hookimpl
def ppokit_reward_providers() -> list[Component]:
    examples = [
        Example(
            ("The cat sat.", "The cat sat down."),
            ("A dog.",),
            row={"answer": "The cat sat."},
            options={"metric": "chrf", "reference": "answer"},
        )
    ]
    return [
        Component(
            "metric",
            MetricReward,
            options=MetricRewardOptions,
            check=check,
            examples=examples,
            imports=lambda options: code_of(options.metric),
        )
    ]
