"""A metric of Hugging Face `evaluate`, such as ROUGE, of greedy responses to held-out prompts.

    {use: metric, metric: rouge, reference: summary}

compares each response with the column `summary` of the held-out prompts. `metric` is a name on the hub, which
is loaded over the network or from the cache, or the path of a metric's script, `my_metric.py` or its folder.
Every single number that the metric returns is reported; lists and texts are left out.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from numbers import Real
from pathlib import Path
from typing import Any

from pydantic import Field

from ppokit.plugin import (
    BuildContext,
    CheckContext,
    Component,
    EvaluationView,
    Options,
    PluginError,
    first_line,
    hookimpl,
)


class MetricOptions(Options):
    metric: str = Field(min_length=1, description="A metric's name on the hub, or the path of its script.")
    reference: str | None = Field(
        default=None,
        description="Column of the held-out prompts to compare with; none for metrics of one text.",
    )
    config: str | None = Field(default=None, description="Configuration of the metric, such as a language.")
    arguments: dict[str, Any] = Field(
        default_factory=dict, description="Further arguments of the metric's compute."
    )
    samples: int | None = Field(
        default=None, gt=0, description="Responses per prompt; one greedy response each, if not given."
    )


def load(options: MetricOptions) -> Any:
    """The metric's module.

    Raises:
        PluginError: it cannot be had.
    """
    evaluate = importlib.import_module("evaluate")
    name = str(Path(options.metric).expanduser()) if _is_path(options.metric) else options.metric
    try:
        return evaluate.load(name, options.config, keep_in_memory=True)
    except Exception as error:  # of the hub, of datasets, or of the metric's own imports
        raise PluginError(
            f"the metric {options.metric!r} cannot be loaded: {first_line(error)}. By name it is loaded from "
            "the hub, and from the cache after that; without a network, give the path of its script. A "
            "missing module is a package that the metric needs."
        ) from error


class Metric:
    def __init__(self, options: MetricOptions, context: BuildContext) -> None:
        self.options = options
        self.metric = load(options)

    def evaluate(self, view: EvaluationView, step: int) -> dict[str, float]:
        options = self.options
        rollout = view.generate(n=options.samples)
        if not view.is_main:
            return {}
        answered = [i for i, outcome in enumerate(rollout.outcomes) if outcome != "failed"]
        texts: dict[str, Any] = {"predictions": [rollout.responses[i] for i in answered]}
        if options.reference is not None:
            texts["references"] = [rollout.rows[i][options.reference] for i in answered]
        results = self.metric.compute(**texts, **options.arguments)
        return {name: float(value) for name, value in results.items() if _is_number(value)}


def _is_number(value: object) -> bool:
    return isinstance(value, Real) or getattr(value, "shape", None) == ()


def _is_path(metric: str) -> bool:
    return metric.endswith(".py") or metric.startswith((".", "/", "~")) or Path(metric).exists()


def check(options: MetricOptions, context: CheckContext) -> Iterable[str]:
    if context.columns == ():
        yield "needs held-out prompts; expected evaluation.prompts"
    elif (
        context.columns is not None
        and options.reference is not None
        and options.reference not in context.columns
    ):
        yield (
            f"reference {options.reference!r} is no column of the held-out prompts "
            f"({', '.join(context.columns)})"
        )
    if _is_path(options.metric) and not Path(options.metric).expanduser().exists():
        yield f"metric: there is no file {options.metric}"


@hookimpl
def ppokit_evaluators() -> list[Component]:
    return [Component("metric", Metric, options=MetricOptions, check=check)]
