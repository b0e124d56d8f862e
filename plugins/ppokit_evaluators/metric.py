"""Metrics of Hugging Face `evaluate`, such as ROUGE, of responses to held-out prompts.

    {use: metric, metric: rouge, reference: summary}
    {use: metric, metric: [chrf, sacrebleu], reference: [translation, another_translation]}

compares each response with the column `summary` of the held-out prompts, or with several columns. rouge,
sacrebleu, chrf, exact_match, f1 and accuracy are part of ppokit and need no network; any other metric is the
path of its script, `package:DISTRIBUTION/FOLDER`, or a name on the hub. Every single number that a metric
returns is reported, under the metric's name where there are several. A list of one number per response is
recorded with the responses, and its mean reported; other lists, texts and arguments that it gives back are
left out.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from ppokit.plugin import (
    BuildContext,
    CheckContext,
    Component,
    EvaluationView,
    Options,
    PluginError,
    hookimpl,
)
from ppokit_metrics.finding import code_of, problems
from ppokit_metrics.loading import Metric
from ppokit_metrics.references import Name, Reference, reference_of, reference_problems


class MetricOptions(Options):
    metric: Name | Annotated[list[Name], Field(min_length=1)] = Field(
        description="A metric, or several: rouge, sacrebleu, chrf, exact_match, f1 or accuracy; the path of "
        "a script, package:DISTRIBUTION/FOLDER, or a name on the hub."
    )
    reference: Reference | None = Field(
        default=None,
        description="Column of the held-out prompts to compare with, or several; none for metrics of one "
        "text.",
    )
    config: str | None = Field(default=None, description="Configuration of the metric, such as a language.")
    arguments: dict[str, Any] = Field(
        default_factory=dict, description="Further arguments of the metric's compute."
    )
    samples: int | None = Field(
        default=None, gt=0, description="Responses per prompt; one greedy response each, if not given."
    )

    @property
    def names(self) -> list[str]:
        """Those of the metrics."""
        return [self.metric] if isinstance(self.metric, str) else self.metric


class MetricEvaluator:
    def __init__(self, options: MetricOptions, context: BuildContext) -> None:
        self.options = options
        self.metrics = [Metric(name, options.config, options.arguments) for name in options.names]
        for metric in self.metrics:
            metric.check_references(options.reference is not None)

    def evaluate(self, view: EvaluationView, step: int) -> dict[str, float]:
        rollout = view.generate(n=self.options.samples)
        if not view.is_main:
            return {}
        answered = [i for i, outcome in enumerate(rollout.outcomes) if outcome != "failed"]
        if not answered:
            return {}
        responses = [rollout.responses[i] for i in answered]
        references = references_of([rollout.rows[i] for i in answered], self.options.reference)
        metrics: dict[str, float] = {}
        recorded: dict[str, list[float | None]] = {}
        for metric in self.metrics:
            prefix = f"{metric.name}/" if len(self.metrics) > 1 else ""
            results = metric.compute(responses, references)
            metrics.update({f"{prefix}{key}": number for key, number in metric.numbers(results).items()})
            for key, own in metric.contributions(responses, references, results).items():
                known = {i: x if math.isfinite(x) else None for i, x in zip(answered, own, strict=True)}
                recorded[f"{prefix}{key}"] = [known.get(i) for i in range(len(rollout))]
        view.record(rollout, recorded)
        return metrics


def references_of(rows: Iterable[Any], reference: str | list[str] | None) -> list[Any] | None:
    """Of each row what its response is compared with; None where no column is named.

    Raises:
        PluginError: a row has nothing.
    """
    if reference is None:
        return None
    references = [reference_of(row, reference) for row in rows]
    if None in references:
        raise PluginError(f"reference: a held-out prompt has nothing in {reference!r}; expected a text")
    return references


def check(options: MetricOptions, context: CheckContext) -> Iterable[str]:
    if context.columns == ():
        yield "needs held-out prompts; expected evaluation.prompts"
    else:
        yield from reference_problems(
            context,
            options.reference,
            options.names,
            options.config,
            options.arguments,
            of="held-out prompts",
            per_response=False,
        )
    for name in dict.fromkeys(options.names):
        if options.names.count(name) > 1:
            yield f"metric: names {name!r} {options.names.count(name)} times; expected each metric once"
        yield from problems(name)


def _imports(options: MetricOptions) -> dict[str, Path | None]:
    return {name: file for metric in options.names for name, file in code_of(metric).items()}


@hookimpl
def ppokit_evaluators() -> list[Component]:
    return [
        Component(
            "metric",
            MetricEvaluator,
            options=MetricOptions,
            check=check,
            imports=_imports,
        )
    ]
