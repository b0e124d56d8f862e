"""Which curves a page draws, what is shown first, and the distributions of rewards by step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup

from ppokit.report.charts import Line, line_chart, quantile_chart
from ppokit.report.ragged import Floats
from ppokit.report.run_data import RunData
from ppokit.report.verdict import evaluation_metrics

FIRST = (
    "reward/mean",
    "kl/k1",
    "policy/entropy",
    "policy/clip_fraction",
    "value/explained_variance",
    "response/length",
    "grad_norm",
    "memory/peak_gb",
)
LEVELS = (0.05, 0.25, 0.5, 0.75, 0.95)
PHASES = "time by phase"


@dataclass(frozen=True)
class Figure:
    """A plot.

    Attributes:
        names: metrics that it shows, for the search.
        first: whether it is shown before anything is searched for.
        legend: labels of its lines, with their colours.
        run: number of the run that it is of alone; None where it is of all.
    """

    title: str
    svg: Markup
    names: Sequence[str]
    first: bool = True
    legend: Sequence[tuple[str, int]] = ()
    run: int | None = None

    @property
    def id(self) -> str:
        """What links name it by: a metric, or its title."""
        return f"curve:{self.names[0] if self.run is None else self.title}"


def figures(runs: Sequence[RunData]) -> list[Figure]:
    """A plot of every metric, those that matter most first; several runs are drawn over each other."""
    names: dict[str, None] = {}
    evaluated = dict.fromkeys(name for run in runs for name in evaluation_metrics(run))
    known = {name for run in runs for name in run.measured()}
    for name in (*FIRST[:2], *list(evaluated)[:4], *FIRST[2:]):
        if name in known:
            names[name] = None
    shown = list(names)
    rest = sorted(known - set(shown))
    out = [_figure(name, runs, first=True) for name in shown]
    out += [
        _phases(i, run, f"{PHASES}: {run.name}" if len(runs) > 1 else PHASES) for i, run in enumerate(runs)
    ]
    out += [_figure(name, runs, first=False) for name in rest]
    return [figure for figure in out if figure.svg]


def _figure(name: str, runs: Sequence[RunData], *, first: bool) -> Figure:
    lines = [Line(run.name, *run.series(name), colour=i) for i, run in enumerate(runs)]
    lines = [line for line in lines if line.values]
    legend = [(line.label, line.colour) for line in lines] if len(runs) > 1 else []
    return Figure(name, line_chart(name, lines), [name], first, legend)


def _phases(number: int, run: RunData, title: str) -> Figure:
    """Seconds of each phase, of one run."""
    names = [n for n in run.measured() if n.startswith("time/") and n.count("/") == 1]
    names = [n for n in names if n not in ("time/step_s", "time/evaluation_s")]
    names.sort(key=lambda name: -float(np.mean(run.series(name)[1])))
    lines = [
        Line(name.removeprefix("time/").removesuffix("_s"), *run.series(name), colour=i)
        for i, name in enumerate(names)
    ]
    return Figure(
        title,
        line_chart("Seconds by phase", lines),
        names,
        legend=[(line.label, line.colour) for line in lines],
        run=number,
    )


def distributions(run: RunData) -> list[Figure]:
    """Of the score and each provider's raw score, by step."""
    columns: dict[str, list[Floats]] = {"score": [s.score for s in run.steps]}
    for name in sorted({name for s in run.steps for name in s.rewards}):
        columns[name] = [s.rewards.get(name, np.empty(0)) for s in run.steps]
    out = []
    for name, parts in columns.items():
        known = [(s.step, own[np.isfinite(own)]) for s, own in zip(run.steps, parts, strict=True)]
        known = [(step, own) for step, own in known if len(own)]
        if not known:
            continue
        quantiles = [np.quantile(own, LEVELS).tolist() for _, own in known]
        title = "score (weighted sum)" if name == "score" else name
        out.append(Figure(title, quantile_chart(title, [step for step, _ in known], quantiles), [name]))
    return out
