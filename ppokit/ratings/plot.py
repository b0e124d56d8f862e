"""The statistics of a file of ratings as one picture."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ppokit.data.atomic import replacing
from ppokit.errors import DataError, first_line
from ppokit.ratings.agreement import deal_halves, shared
from ppokit.ratings.arrays import arrays_of
from ppokit.ratings.records import RatingTable

if TYPE_CHECKING:
    from ppokit.ratings.stats import Stats

MOST_RATERS = 25
MOST_POINTS = 400
BLUE, ORANGE, GREY = "#1f6f8b", "#b5562b", "#8a8a8a"


def plot(stats: Stats, table: RatingTable, path: str | Path) -> None:
    """Draw the distribution, the ratings per item, each rater, and one half of the raters against the other.

    Raises:
        DataError: the picture cannot be written.
    """
    from matplotlib.figure import Figure

    panels = [_by_item]
    if stats.distribution:
        panels.insert(0, _distribution)
    if stats.raters and any(rater.bias is not None or rater.agreement is not None for rater in stats.raters):
        panels.append(_raters)
    if stats.agreement.split_half is not None:
        panels.append(_halves)
    columns = min(2, len(panels))
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(4.6 * columns, 3.5 * rows), layout="constrained", dpi=150)
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for axis, panel in zip(axes, panels, strict=False):
        panel(axis, stats, table)
        axis.spines[["top", "right"]].set_visible(False)
    for axis in axes[len(panels) :]:
        axis.set_visible(False)
    who = f" by {len(stats.raters)} rater{'s' * (len(stats.raters) != 1)}" if stats.raters else ""
    figure.suptitle(
        f"{_plain(Path(stats.source).name)}: {stats.rows:,} {stats.kind} of {stats.items:,} items{who}",
        x=0.02,
        ha="left",
        fontsize=11,
    )
    try:
        with replacing(Path(path)) as tmp_path:
            figure.savefig(tmp_path, format="png")
    except OSError as error:
        raise DataError(f"--plot {path} cannot be written: {first_line(error)}") from error


def _distribution(axis: Any, stats: Stats, table: RatingTable) -> None:
    bars = stats.distribution
    assert stats.scale is not None
    if bars[0].low == bars[0].high:
        names = [f"{bar.low:g}" for bar in bars]
        axis.bar(names, [bar.count for bar in bars], color=BLUE, width=0.8)
    else:
        widths = [bar.high - bar.low for bar in bars]
        axis.bar([bar.low for bar in bars], [bar.count for bar in bars], widths, align="edge", color=BLUE)
        axis.margins(x=0.01)
        for patch in axis.patches:
            patch.set_edgecolor("white")
    axis.set_title("Ratings", loc="left", fontsize=10)
    axis.set_xlabel("rating")
    axis.set_ylabel("how many")
    _count(axis)


def _by_item(axis: Any, stats: Stats, table: RatingTable) -> None:
    sizes = stats.ratings_an_item
    axis.bar(
        [str(size) for size in sizes], list(sizes.values()), color=BLUE, width=min(0.8, 0.2 * len(sizes))
    )
    if len(sizes) == 1:
        axis.set_xlim(-1, 1)
    axis.set_title("Ratings an item", loc="left", fontsize=10)
    axis.set_xlabel("ratings")
    axis.set_ylabel("items")
    _count(axis)


def _raters(axis: Any, stats: Stats, table: RatingTable) -> None:
    raters = [r for r in stats.raters if r.bias is not None] or [
        r for r in stats.raters if r.agreement is not None
    ]
    raters = sorted(raters, key=lambda r: -r.ratings)[:MOST_RATERS][::-1]
    names = [_plain(rater.name)[:18] for rater in raters]
    positions = np.arange(len(raters))
    if raters[0].bias is not None:
        biases = [rater.bias for rater in raters]
        axis.axvline(0, color=GREY, linewidth=0.8)
        axis.barh(positions, biases, color=[ORANGE if (b or 0) < 0 else BLUE for b in biases], height=0.6)
        axis.margins(x=0.15)
        axis.set_xlabel("bias: own rating minus the others' mean")
    else:
        axis.barh(positions, [rater.agreement for rater in raters], color=BLUE, height=0.6)
        axis.set_xlim(0, 1)
        axis.set_xlabel("share of pairs decided as most others did")
    axis.set_yticks(positions, names, fontsize=8 if len(raters) < 16 else 6)
    more = f" ({MOST_RATERS} of {len(stats.raters)})" if len(stats.raters) > MOST_RATERS else ""
    axis.set_title(f"Raters{more}", loc="left", fontsize=10)


def _halves(axis: Any, stats: Stats, table: RatingTable) -> None:
    arrays = arrays_of(table)
    first, second = deal_halves(*shared(arrays.items, arrays.values), np.random.default_rng(0))
    low, high = float(arrays.values.min()), float(arrays.values.max())
    points, counts = np.unique(np.stack([first, second], axis=1), axis=0, return_counts=True)
    if len(points) <= MOST_POINTS:
        sizes = 12 + 150 * (counts - 1) / max(counts.max() - 1, 20)
        axis.scatter(points[:, 0], points[:, 1], color=BLUE, alpha=0.6, s=sizes, linewidths=0)
    else:
        from matplotlib.colors import LinearSegmentedColormap

        shades = LinearSegmentedColormap.from_list("shades", ["#d3e5eb", BLUE, "#082c39"])
        box = (low, high, low, high)
        axis.hexbin(first, second, gridsize=22, extent=box, cmap=shades, mincnt=1, bins="log")
    axis.plot([low, high], [low, high], color=GREY, linewidth=0.8)
    half = stats.agreement.split_half
    assert half is not None
    axis.set_title(f"Two halves of the raters: Spearman {half.value:.2f}", loc="left", fontsize=10)
    axis.set_xlabel("mean rating, one half")
    axis.set_ylabel("mean rating, other half")


def _count(axis: Any) -> None:
    from matplotlib.ticker import MaxNLocator

    axis.yaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
    axis.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")


def _plain(text: str) -> str:
    """Text that matplotlib draws as it is: no mathematics, no control characters."""
    return "".join(c if c.isprintable() else " " for c in text).replace("$", r"\$")
