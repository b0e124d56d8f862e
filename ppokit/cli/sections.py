"""Sections of a report: tables on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import typer

from ppokit.errors import printable

BAR_WIDTH = 32


@dataclass(frozen=True)
class Section:
    """A table with a title over it and a sentence under it.

    Attributes:
        bars: a share from 0 to 1 for each row, drawn next to it.
        text_columns: how many columns are text; those after them are numbers.
    """

    title: str
    header: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    bars: list[float] | None = None
    text_columns: int = 1
    after: str = ""

    def printable_rows(self) -> list[tuple[str, ...]]:
        """Rows that a terminal shows and does not obey, whoever has written them."""
        return [tuple(printable(cell, keep="\n") for cell in row) for row in self.rows]


def show(sections: Iterable[Section]) -> None:
    """Print sections; a bar goes to a terminal only."""
    if sys.stdout.isatty():
        on_terminal(sections)
        return
    for number, section in enumerate(sections):
        if number:
            typer.echo("")
        if section.title:
            typer.echo(section.title)
        _lines(section)
        if section.after:
            typer.echo(f"  {section.after}")


def on_terminal(sections: Iterable[Section]) -> None:
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
        for index, name in enumerate(section.header):
            text = index < section.text_columns
            table.add_column(name, justify="left" if text else "right", overflow="fold", no_wrap=not text)
        if section.bars is not None:
            table.add_column("", width=BAR_WIDTH, no_wrap=True)
        for index, row in enumerate(section.printable_rows()):
            cells = [Text(cell) for cell in row]  # Text, since what people write is no markup
            if section.bars is not None:
                cells.append(Text(_bar(section.bars[index]), style="cyan"))
            table.add_row(*cells)
        if section.rows:
            console.print(table)
        if section.after:
            console.print(Text(section.after, style="italic"))


def _lines(section: Section) -> None:
    rows = [section.header] * any(section.header) + section.printable_rows()
    if not rows:
        return
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = [
            cell.ljust(width) if index < section.text_columns else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        typer.echo(("  " * bool(section.title) + "  ".join(cells)).rstrip())


def _bar(share: float) -> str:
    eighths = round(share * BAR_WIDTH * 8)
    part = "▏▎▍▌▋▊▉"[eighths % 8 - 1] if eighths % 8 else ""
    return "█" * (eighths // 8) + part or ("▏" if share else "")


def number(value: float | None, form: str = ".3f") -> str:
    """A number as it is shown; `-` for None."""
    if value is None:
        return "-"
    text = format(value, form)
    return format(0.0, form) if float(text) == 0 else text  # zero has no sign


def percent(share: float) -> str:
    """A share from 0 to 1 as it is shown."""
    return f"{100 * share:.1f} %"


def interval(low: float | None, high: float | None) -> str:
    """The ends of an interval as they are shown."""
    return "unknown" if low is None or high is None else f"{number(low)} to {number(high)}"
