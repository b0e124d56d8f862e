"""What `ppokit ratings` shows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ppokit.cli.sections import Section, interval, number, percent
from ppokit.errors import printable

if TYPE_CHECKING:
    from ppokit.data.formats import BadRow
    from ppokit.ratings.findings import Findings
    from ppokit.ratings.stats import Bar, Stats

SHOWN_ROWS = 50
SHOWN_RATERS = 50
# Krippendorff 2004, Content Analysis, section 11.4: what conclusions alpha allows.
RELIABLE, TENTATIVE = 0.8, 0.667


def stats_sections(stats: Stats) -> list[Section]:
    """Statistics as sections."""
    sections = [Section("", ("", ""), _overview(stats), text_columns=2)]
    if stats.distribution:
        counts = [bar.count for bar in stats.distribution]
        names = [_range(bar, stats) for bar in stats.distribution]
        rows = [(name, f"{n:,}", percent(n / sum(counts))) for name, n in zip(names, counts, strict=True)]
        bars = [count / max(counts) for count in counts]
        sections.append(Section("Distribution", ("rating", "ratings", "share"), rows, bars))
    sections.append(_agreement(stats))
    if stats.raters:
        sections.append(_raters(stats))
    if stats.aspects:
        sections.append(_aspects(stats))
    return sections


def _range(bar: Bar, stats: Stats) -> str:
    if bar.low == bar.high:
        return f"{bar.low:g}"
    # The upper end belongs to the next bar, which whole numbers can say.
    whole = stats.scale is not None and stats.scale.whole and bar is not stats.distribution[-1]
    return f"{bar.low:g} to {bar.high - whole:g}"


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
        rows.append(("coverage", f"{percent(stats.coverage)} of all raters times items"))
    if stats.scale is not None:
        scale = stats.scale
        kind = "whole numbers" if scale.whole else f"{scale.different:,} different numbers"
        rows.append(("scale", f"{scale.low:g} to {scale.high:g}, {kind}"))
        rows.append(("", f"mean {scale.mean:.2f}, median {scale.median:g}, std {scale.std:.2f}"))
    if stats.longer_chosen is not None:
        rows.append(("length", f"the longer text was chosen in {percent(stats.longer_chosen)} of pairs"))
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
        text = "Unknown: nothing was rated twice. Let two people rate some of the same responses."
        return Section("Agreement", ("",), [], after=text)
    count = f"{agreement.items:,} {_plural('item', agreement.items)}"
    title = f"Agreement, over the {count} with two ratings or more"
    rows = []
    for name, estimate in (
        (f"Krippendorff's alpha ({agreement.level})", agreement.alpha),
        ("Spearman between halves of the raters", agreement.split_half),
        ("Spearman-Brown, for panels of all raters", agreement.all_raters),
    ):
        if estimate is not None:
            rows.append((name, number(estimate.value), interval(estimate.low, estimate.high)))
    if agreement.far_apart is not None:
        what = "disputed items" if stats.kind == "pairs" else "items with ratings half the scale apart"
        rows.append((what, percent(agreement.far_apart), ""))
    alpha = agreement.alpha
    verdict = "Alpha is unknown: all ratings are equal." if alpha is None else _verdict(alpha.value)
    return Section(title, ("", "", "95 % interval"), rows, after=verdict)


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
                "-" if rater.agreement is None else percent(rater.agreement),
            )
            for rater in shown
        ]
        return Section(f"Raters{more}", header, rows)
    header = ("rater", "ratings", "mean", "std", "shared", "bias", "Spearman")
    rows = [
        (
            printable(rater.name),
            f"{rater.ratings:,}",
            number(rater.mean, ".2f"),
            number(rater.std, ".2f"),
            f"{rater.compared:,}",
            number(rater.bias, "+.2f"),
            number(rater.agreement, ".2f"),
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
            number(aspect.mean, ".2f"),
            number(aspect.std, ".2f"),
            number(aspect.spearman, ".2f"),
        )
        for aspect in stats.aspects
    ]
    return Section("Aspects", ("column", "ratings", "mean", "std", "Spearman with the rating"), rows)


def findings_sections(findings: Findings, source: str, good: int, notes: Sequence[str]) -> list[Section]:
    """What `check` found, as sections."""
    problems, remarks = findings.problems, findings.remarks
    summary = f"{len(problems):,} {_plural('problem', len(problems))}" if problems else "no problems"
    if remarks:
        summary += f", {len(remarks):,} {_plural('remark', len(remarks))}"
    rows = [("file", printable(source)), ("usable", f"{good:,} {_plural('row', good)}"), ("found", summary)]
    sections = [Section("", ("", ""), rows + [("note", note) for note in notes], text_columns=2)]
    for title, listed_rows in (("Problems", problems), ("Worth a look", remarks)):
        if listed_rows:
            sections.append(_rows(title, listed_rows))
    return sections


def _rows(title: str, bad: Sequence[BadRow]) -> Section:
    rows = [(f"row {row.row}", printable(row.reason)) for row in bad[:SHOWN_ROWS]]
    if len(bad) > SHOWN_ROWS:
        rows.append(("", f"and {len(bad) - SHOWN_ROWS:,} more; --json lists all"))
    return Section(title, ("", ""), list(rows), text_columns=2)


def _plural(word: str, count: int) -> str:
    return word if count == 1 else f"{word}s"


def _times(count: int) -> str:
    return {1: "once", 2: "twice"}.get(count, f"{count} times")
