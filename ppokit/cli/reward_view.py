"""What `ppokit reward fit` shows: a bar with the time left, and what the fit measured."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from ppokit.cli.sections import Section, interval, percent
from ppokit.errors import printable

if TYPE_CHECKING:
    from ppokit.ratings.agreement import Estimate
    from ppokit.reward_models.probe import Tried
    from ppokit.reward_models.report import Quality, Report
    from ppokit.reward_models.training import Epoch


LEVEL = 0.02  # a gain that is not worth the raters' time


class Bar:
    """A `Listener` that tells on stderr how a fit goes on: a bar on a terminal, and a line per fit.

    Args:
        what: what goes on until a fit begins.
    """

    def __init__(self, what: str = "loading") -> None:
        self.console = Console(stderr=True, highlight=False, soft_wrap=True)
        self.progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            TimeRemainingColumn(),
            TextColumn("left"),
            console=self.console,
            transient=True,
            disable=not self.console.is_terminal,
        )
        self.task = self.progress.add_task(what, total=None)
        self.what = what

    def __enter__(self) -> Bar:
        self.progress.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self.progress.stop()

    def on_start(self, tokens: int) -> None:
        self.progress.update(self.task, total=tokens)

    def on_advance(self, tokens: int) -> None:
        self.progress.update(self.task, advance=tokens)

    def on_fit(self, number: int, count: int, samples: int) -> None:
        self.what = f"fit {number} of {count}, {samples:,} samples"
        self.progress.update(self.task, description=self.what)

    def on_fitted(self, history: Sequence[Epoch | Tried], seconds: float) -> None:
        best = min(history, key=lambda one: one.validation_loss)
        self.console.print(
            f"{self.what}: best of {len(history)} is {best.name}, held-out loss {best.validation_loss:.3f}, "
            f"{seconds:.0f} s"
        )
        self.progress.update(self.task, description="measuring")


def report_sections(report: Report, out: Path, bad_rows: int) -> list[Section]:
    """A report as sections."""
    pairs = report.objective == "bradley_terry"
    things = "choices" if pairs else "rated responses"
    sizes = report.sizes
    parts = "; ".join(
        f"{sizes[part].samples:,} to {purpose}"
        for part, purpose in (("fit", "fit"), ("validation", "choose by"), ("test", "test on"))
    )
    rows = [
        ("ratings", printable(report.source)),
        ("model", f"{printable(report.model)} ({'heads' if report.kind == 'encoder' else 'LoRA and head'})"),
        (things, parts),
        ("score", report.score),
        ("time", f"{report.seconds:,.0f} s, of the processor {report.cpu_seconds:,.0f} s"),
    ]
    if bad_rows:
        rows.append(("left out", f"{bad_rows:,} bad rows"))
    rows += [("note", note) for note in report.notes]
    sections = [Section("", ("", ""), rows, text_columns=2), _quality(report, pairs)]
    if len(report.curve) > 1:
        sections.append(_curve(report, things))
    sections.append(
        Section(
            "",
            ("", ""),
            [
                ("saved", printable(str(out))),
                ("use it", f"rewards: [{{use: reward_model, model: {printable(str(out))}}}]"),
            ],
            text_columns=2,
        )
    )
    return sections


def _quality(report: Report, pairs: bool) -> Section:
    quality: Quality = report.quality
    rows: list[tuple[str, str, str]] = []
    if quality.spearman is not None:
        rows.append(("Spearman with the mean rating", *_estimate(quality.spearman)))
    for name, share in (
        ("choices that it makes as people did" if pairs else "pairs that it orders right", quality.pairs),
        ("pairs of responses to one prompt", quality.pairs_of_a_prompt),
    ):
        if share is not None:
            value, ends = _percent(share)
            rows.append((name, value, f"{ends}, of {share.pairs:,}"))
    slope = f"{quality.calibration.slope:.2f}" if math.isfinite(quality.calibration.slope) else "unknown"
    rows.append(("calibration: slope, 1 is right", slope, ""))
    if quality.heads_std is not None:
        rows.append(("std of the heads", f"{quality.heads_std:.3f}", ""))
    if quality.std_error_correlation is not None:
        rows.append(("  its Spearman with the error", f"{quality.std_error_correlation:.2f}", ""))
    after = ""
    if report.agreement is not None:
        agreement = report.agreement
        if agreement.split_half is not None:
            rows.append(("raters: Spearman between halves", *_estimate(agreement.split_half)))
            rows.append(("raters: what that allows a model", f"{agreement.ceiling:.2f}", ""))
        if agreement.same_choice is not None:
            rows.append(("raters: two choose alike", *_percent(agreement.same_choice)))
            rows.append(("raters: what that allows a model", percent(agreement.ceiling), ""))
    else:
        thing = "a pair" if pairs else "anything"
        after = f"How far people agree is unknown: hardly {thing} in the test part was rated twice."
    size = report.sizes["test"]
    return Section(
        f"Quality on {size.prompts:,} prompt{'s' * (size.prompts != 1)} that it has not seen",
        ("", "", "95 % interval"),
        rows,
        after=after,
    )


def _curve(report: Report, things: str) -> Section:
    rows = [
        (f"{point.samples:,}", f"{point.value:.3f}", interval(point.low, point.high))
        for point in report.curve
    ]
    measure = "pair accuracy" if report.objective == "bradley_terry" else "Spearman"
    note = "" if report.gain is None else worth(report.gain)
    return Section("Learning curve", (things, measure, "95 % interval"), rows, after=note)


def worth(gain: Estimate) -> str:
    """Whether to rate more, by what the last doubling of the samples brought."""
    change = f"From half to all: {gain.value:+.3f} ({interval(gain.low, gain.high)})."
    if gain.low is not None and gain.low > 0:
        return f"{change} It still rises: rating more is worth it."
    if gain.high is not None and gain.high < LEVEL:
        return f"{change} It has levelled off: rating more would bring little."
    return f"{change} Too few prompts are held out to tell whether it rises."


def _estimate(estimate: Estimate) -> tuple[str, str]:
    return f"{estimate.value:.3f}", interval(estimate.low, estimate.high)


def _percent(share: Estimate) -> tuple[str, str]:
    if share.low is None or share.high is None:
        return percent(share.value), "unknown"
    return percent(share.value), f"{100 * share.low:.1f} to {percent(share.high)}"
