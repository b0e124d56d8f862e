"""Reward and KL by step, as a picture."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def plot_run(lines: Sequence[Mapping[str, Any]], title: str, path: Path) -> None:
    """Draw `reward/mean`, and the KL from the reference where it was measured, into a PNG file.

    Args:
        lines: a run's metrics, one mapping per step.
    """
    import matplotlib

    matplotlib.use("agg")
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    steps = [line["step"] for line in lines]

    def series(name: str) -> list[float]:
        return [math.nan if line.get(name) is None else line[name] for line in lines]

    kl_name = next((f"kl/{e}" for e in ("k1", "k3") if any(f"kl/{e}" in line for line in lines)), None)
    rows = 2 if kl_name else 1
    figure = Figure(figsize=(7, 5 if kl_name else 3.4), layout="constrained", dpi=150)
    axes = figure.subplots(rows, 1, sharex=True, squeeze=False, height_ratios=[2, 1][:rows])[:, 0]
    axes[0].plot(steps, series("reward/mean"), marker="o", markersize=3, color="#1f6f8b")
    axes[0].set_ylabel("mean reward")
    axes[0].set_title(title, loc="left", fontsize=10)
    if kl_name:
        axes[1].plot(steps, series(kl_name), marker="o", markersize=3, color="#b5562b")
        axes[1].set_ylabel(f"KL from reference\n({kl_name[3:]}, nats per token)")
    for axis in axes:
        axis.grid(alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)
    axes[-1].set_xlabel("step")
    axes[-1].xaxis.set_major_locator(MaxNLocator(integer=True))
    figure.savefig(path, format="png")
