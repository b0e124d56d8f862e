"""The learning curve and the calibration of a fit, as one picture."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ppokit.ratings.plot import BLUE, GREY, ORANGE

if TYPE_CHECKING:
    from ppokit.reward_models.report import Report


def draw(report: Report, path: Path) -> None:
    """Write a PNG.

    Raises:
        OSError: it cannot be written.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.2, 3.8), layout="constrained", dpi=150)
    left, right = figure.subplots(1, 2)
    _curve(left, report)
    _calibration(right, report)
    for axis in (left, right):
        axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, format="png")


def _curve(axis: Any, report: Report) -> None:
    pairs = report.objective == "bradley_terry"
    sizes, values = [p.samples for p in report.curve], [p.value for p in report.curve]
    known = [p for p in report.curve if p.low is not None]
    if known:
        axis.vlines(
            [p.samples for p in known], [p.low for p in known], [p.high for p in known],
            color=BLUE, alpha=0.35, linewidth=5,
        )  # fmt: skip
    axis.plot(sizes, values, "o-", color=BLUE)
    for size, value in zip(sizes, values, strict=True):
        axis.annotate(
            f"{value:.2f}", (size, value), (0, 9), textcoords="offset points", ha="center", fontsize=9
        )
    if report.agreement is not None:
        axis.axhline(report.agreement.ceiling, color=ORANGE, linestyle="--", linewidth=1)
        axis.annotate(
            f"what the raters' own agreement allows: {report.agreement.ceiling:.2f}",
            (sizes[-1], report.agreement.ceiling), (0, -11), textcoords="offset points",
            ha="right", fontsize=8, color=ORANGE,
        )  # fmt: skip
    if pairs:
        axis.axhline(0.5, color=GREY, linestyle="--", linewidth=1)
        axis.annotate("chance", (sizes[0], 0.5), (0, 4), textcoords="offset points", fontsize=8, color=GREY)
    lows = [p.value if p.low is None else p.low for p in report.curve]
    low = min((value for value in lows if math.isfinite(value)), default=0.0)
    axis.set_ylim(min(0.45 if pairs else 0.0, low - 0.05), 1)
    axis.set_xlim(0, sizes[-1] * 1.1)
    axis.set_xlabel("choices to learn from" if pairs else "rated responses to learn from")
    axis.set_ylabel("pair accuracy" if pairs else "Spearman")
    axis.set_title("Held-out prompts, 95 % intervals", loc="left", fontsize=10)
    axis.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")


def _calibration(axis: Any, report: Report) -> None:
    pairs = report.objective == "bradley_terry"
    calibration = report.quality.calibration
    scores, ratings = [b.score for b in calibration.bins], [b.rating for b in calibration.bins]
    ends = [min(*scores, *ratings), max(*scores, *ratings)]
    axis.plot(ends, ends, color=GREY, linewidth=0.8)
    axis.plot(scores, ratings, "o", color=BLUE)
    axis.set_xlabel("the model's confidence in its choice" if pairs else "score")
    axis.set_ylabel("how often it is right" if pairs else "mean rating (z)")
    axis.set_title(f"Calibration: slope {calibration.slope:.2f}", loc="left", fontsize=10)
