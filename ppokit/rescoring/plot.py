"""Scores before and after, as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path


def plot_scores(before: Sequence[float], after: Sequence[float], title: str, path: Path) -> None:
    """Draw each sample as a point, by its score before and after, into a PNG file."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 5), layout="constrained", dpi=150)
    axes = figure.subplots()
    axes.scatter(before, after, s=8, alpha=0.4, color="#1f6f8b", linewidths=0)
    axes.set_xlabel("score before")
    axes.set_ylabel("score after")
    axes.set_title(title, loc="left", fontsize=10, parse_math=False)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, format="png")
