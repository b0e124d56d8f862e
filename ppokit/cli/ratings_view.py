"""What `ppokit ratings` shows: tables on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from ppokit.ratings.agreement import Estimate
    from ppokit.ratings.findings import Findings
    from ppokit.ratings.rows import BadRow
    from ppokit.ratings.stats import Bar, Stats

SHOWN_ROWS = 50
SHOWN_RATERS = 50
BAR_WIDTH = 32
# Krippendorff 2004, Content Analysis, section 11.4: what conclusions alpha allows.
RELIABLE, TENTATIVE = 0.8, 0.667


@dataclass(frozen=True)
class Section:
    """A table with a title over it and a sentence under it.

    Attributes:
        bars: a share from 0 to 1 for each row, drawn beside it.
        text_columns: how many columns are text; those after them are numbers.
    """

    title: str
    header: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    bars: list[float] | None = None
    text_columns: int = 1
    after: str = ""


def show(sections: Iterable[Section]) -> None:
    """Print sections; a bar goes to a terminal only."""
    if sys.stdout.isatty():
        _on_terminal(sections)
        return
    for number, section in enumerate(sections):
        if number:
            typer.echo("")
        if section.title:
            typer.echo(section.title)
        _lines(section)
        if section.after:
            typer.echo(f"  {section.after}")


def _on_terminal(sections: Iterable[Section]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False)
    for number, section in enumerate(sections):
        if number:
            console.print()
        if section.title:
            console.print(Text(section.title, style="bold"))
        table = Table(
            box=None,
            padding=(0, 2, 0, 0),
            pad_edge=False,
            show_header=any(section.header),
            header_style="dim",
        )
        for place, name in enumerate(section.header):
            text = place < section.text_columns
            table.add_column(name, justify="left" if text else "right", overflow="fold", no_wrap=not text)
        if section.bars is not None:
            table.add_column("", width=BAR_WIDTH, no_wrap=True)
        for place, row in enumerate(section.rows):
            cells = [Text(cell) for cell in row]  # Text, since what people write is no markup
            if section.bars is not None:
                cells.append(Text(_bar(section.bars[place]), style="cyan"))
            table.add_row(*cells)
        if section.rows:
            console.print(table)
        if section.after:
            console.print(Text(section.after, style="italic"))


def _lines(section: Section) -> None:
    rows = [section.header, *section.rows] if any(section.header) else list(section.rows)
    if not rows:
        return
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = [
            cell.ljust(width) if place < section.text_columns else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        typer.echo(("  " * bool(section.title) + "  ".join(cells)).rstrip())


def _bar(share: float) -> str:
    eighths = round(share * BAR_WIDTH * 8)
    part = "▏▎▍▌▋▊▉"[eighths % 8 - 1] if eighths % 8 else ""
    return "█" * (eighths // 8) + part or ("▏" if share else "")


def stats_sections(stats: Stats) -> list[Section]:
    """Statistics as sections."""
    sections = [Section("", ("", ""), _overview(stats), text_columns=2)]
    if stats.distribution:
        most, total = (
            max(bar.count for bar in stats.distribution),
            sum(bar.count for bar in stats.distribution),
        )
        rows = [
            (
                _range(
                    bar,
                    whole=stats.scale is not None and stats.scale.whole,
                    last=bar is stats.distribution[-1],
                ),
                f"{bar.count:,}",
                _percent(bar.count / total),
            )
            for bar in stats.distribution
        ]
        bars = [bar.count / most for bar in stats.distribution]
        sections.append(Section("Distribution", ("rating", "ratings", "share"), rows, bars))
    sections.append(_agreement(stats))
    if stats.raters:
        sections.append(_raters(stats))
    if stats.aspects:
        sections.append(_aspects(stats))
    return sections


def _range(bar: Bar, whole: bool, last: bool) -> str:
    if bar.low == bar.high:
        return f"{bar.low:g}"
    # The upper end belongs to the next bar, which whole numbers can say.
    return f"{bar.low:g} to {bar.high - (whole and not last):g}"


def _overview(stats: Stats) -> list[tuple[str, str]]:
    by = f", by {len(stats.raters):,} {_plural('rater', len(stats.raters))}" if stats.raters else ""
    things = "responses" if stats.kind == "ratings" else "pairs of responses"
    rows = [
        ("file", printable(stats.source)),
        (stats.kind, f"{stats.rows:,}{by}"),
        ("items", f"{stats.items:,} {things} to {stats.prompts:,} {_plural('prompt', stats.prompts)}"),
        ("", ", ".join(f"{n:,} rated {_times(size)}" for size, n in list(stats.ratings_an_item.items())[:6])),
    ]
    if stats.coverage is not None:
        rows.append(("coverage", f"{_percent(stats.coverage)} of all raters times items"))
    if stats.scale is not None:
        scale = stats.scale
        kind = "whole numbers" if scale.whole else f"{scale.different:,} different numbers"
        rows.append(("scale", f"{scale.low:g} to {scale.high:g}, {kind}"))
        rows.append(("", f"mean {scale.mean:.2f}, median {scale.median:g}, spread {scale.spread:.2f}"))
    if stats.longer_chosen is not None:
        rows.append(("length", f"the longer text was chosen in {_percent(stats.longer_chosen)} of pairs"))
    if stats.splits:
        rows.append(("splits", ", ".join(f"{printable(k)} {n:,}" for k, n in stats.splits.items())))
    if stats.raters:
        rows.append(("repeats", f"{stats.duplicates:,} duplicates, {stats.contradictions:,} contradictions"))
    if stats.bad_rows:
        rows.append(("left out", f"{stats.bad_rows:,} bad {_plural('row', stats.bad_rows)}"))
    return rows + [("note", note) for note in stats.notes]


def _agreement(stats: Stats) -> Section:
    agreement = stats.agreement
    if not agreement.items:
        told = "Unknown: nothing was rated twice. Let two people rate some of the same responses."
        return Section("Agreement", ("",), [], after=told)
    count = f"{agreement.items:,} {_plural('item', agreement.items)}"
    title = f"Agreement, over the {count} with two ratings or more"
    rows = []
    for name, estimate in (
        (f"Krippendorff's alpha ({agreement.level})", agreement.alpha),
        ("Spearman between halves of the raters", agreement.split_half),
        ("Spearman-Brown, for panels of all raters", agreement.all_raters),
    ):
        if estimate is not None:
            rows.append((name, _number(estimate.value, ".3f"), _interval(estimate)))
    if agreement.far_apart is not None:
        what = "disputed items" if stats.kind == "pairs" else "items with ratings half the scale apart"
        rows.append((what, _percent(agreement.far_apart), ""))
    alpha = agreement.alpha
    told = "Alpha is unknown: all ratings are equal." if alpha is None else _verdict(alpha.value)
    return Section(title, ("", "", "95 % interval"), rows, after=told)


def _verdict(alpha: float) -> str:
    if alpha >= RELIABLE:
        return f"Alpha is {RELIABLE:g} or more: good agreement."
    if alpha >= TENTATIVE:
        return f"Alpha is {TENTATIVE:g} to {RELIABLE:g}: enough for tentative conclusions."
    return f"Alpha is below {TENTATIVE:g}: raters disagree; make clearer what a good response is."


def _raters(stats: Stats) -> Section:
    shown = sorted(stats.raters, key=lambda rater: -rater.ratings)[:SHOWN_RATERS]
    more = f", the {SHOWN_RATERS} with the most ratings" if len(stats.raters) > SHOWN_RATERS else ""
    if stats.kind == "pairs":
        header: tuple[str, ...] = ("rater", "pairs", "shared", "as most others")
        rows: list[tuple[str, ...]] = [
            (
                printable(rater.name),
                f"{rater.ratings:,}",
                f"{rater.compared:,}",
                "-" if rater.agreement is None else _percent(rater.agreement),
            )
            for rater in shown
        ]
        return Section(f"Raters{more}", header, rows)
    header = ("rater", "ratings", "mean", "spread", "shared", "bias", "Spearman")
    rows = [
        (
            printable(rater.name),
            f"{rater.ratings:,}",
            _number(rater.mean, ".2f"),
            _number(rater.spread, ".2f"),
            f"{rater.compared:,}",
            _number(rater.bias, "+.2f"),
            _number(rater.agreement, ".2f"),
        )
        for rater in shown
    ]
    after = "bias and Spearman: against the mean of the others, on shared items" if len(shown) > 1 else ""
    return Section(f"Raters{more}", header, rows, after=after)


def _aspects(stats: Stats) -> Section:
    rows = [
        (
            printable(aspect.name),
            f"{aspect.ratings:,}",
            _number(aspect.mean, ".2f"),
            _number(aspect.spread, ".2f"),
            _number(aspect.spearman, ".2f"),
        )
        for aspect in stats.aspects
    ]
    return Section("Aspects", ("column", "ratings", "mean", "spread", "Spearman with the rating"), rows)


def findings_sections(findings: Findings, source: str, good: int, notes: Sequence[str]) -> list[Section]:
    """What `check` found, as sections."""
    problems, remarks = findings.problems, findings.remarks
    told = f"{len(problems):,} {_plural('problem', len(problems))}" if problems else "no problems"
    if remarks:
        told += f", {len(remarks):,} {_plural('remark', len(remarks))}"
    rows = [("file", printable(source)), ("usable", f"{good:,} {_plural('row', good)}"), ("found", told)]
    sections = [Section("", ("", ""), rows + [("note", note) for note in notes], text_columns=2)]
    for title, found in (("Problems", problems), ("Worth a look", remarks)):
        if found:
            sections.append(_rows(title, found))
    return sections


def _rows(title: str, found: Sequence[BadRow]) -> Section:
    rows = [(f"row {row.row}", printable(row.reason)) for row in found[:SHOWN_ROWS]]
    if len(found) > SHOWN_ROWS:
        rows.append(("", f"and {len(found) - SHOWN_ROWS:,} more; --json lists all"))
    return Section(title, ("", ""), list(rows), text_columns=2)


def printable(text: str) -> str:
    """A text that a terminal shows and does not obey."""
    return (
        text
        if text.isprintable()
        else "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
    )


def _interval(estimate: Estimate) -> str:
    if estimate.low is None or estimate.high is None:
        return "unknown"
    return f"{_number(estimate.low, '.3f')} to {_number(estimate.high, '.3f')}"


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _number(value: float | None, form: str) -> str:
    if value is None:
        return "-"
    told = format(value, form)
    return format(0.0, form) if float(told) == 0 else told  # zero has no sign


def _plural(word: str, count: int) -> str:
    return word if count == 1 else f"{word}s"


def _times(count: int) -> str:
    return {1: "once", 2: "twice"}.get(count, f"{count} times")
