"""The records of CSV text, the broken ones among them, so that no other row is lost with one."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

MOST_LINES = 2_000  # of a record: else a file of broken quotes is read to its end from each of them
_LARGEST_CELL = 2**31 - 1


@dataclass(frozen=True)
class Broken:
    """A record that is none: why, and how many lines it took until that showed."""

    reason: str
    lines: int


def records_of(text: str, delimiter: str) -> Iterator[list[str] | Broken]:
    """Cells of each record, or what is wrong with it; goes on at the line after the first of a broken one.

    Not after all of it: a quote that is never closed would take every line up to the next one along.
    """
    lines = list(io.StringIO(text, newline=""))
    begin = end = 0

    def feed() -> Iterator[str]:
        nonlocal end
        while end < min(len(lines), begin + MOST_LINES):
            end += 1
            yield lines[end - 1]

    while begin < len(lines):
        end = begin
        try:
            for cells in csv.reader(feed(), delimiter=delimiter, strict=True):
                yield cells
                begin = end
        except csv.Error as error:
            count = end - begin
            if "unexpected end" in str(error):
                reason = 'a quoted cell that begins in this row is never closed; expected a second "'
            elif count == 1:
                reason = (
                    "a quoted cell goes on after its closing quote; expected quotes inside a cell doubled, "
                    'as in ""'
                )
            else:
                reason = (
                    f"a quoted cell that begins in this row is not closed before its line {count}, and not "
                    'rightly there; expected a second ", and quotes inside a cell doubled, as in "". The '
                    "lines after the first are read as rows of their own where they have as many cells"
                )
            begin += 1
            yield Broken(reason, count)


def holds_rows(cells: Sequence[str | None], delimiter: str) -> bool:
    """Whether whole lines within a cell look like rows: what two stray quotes leave behind.

    That is: each has as many cells as the row, and a number among them.
    """
    for cell in cells:
        inside = cell.split("\n")[1:-1] if cell and "\n" in cell else []
        parts = [line.split(delimiter) for line in inside]
        if parts and all(len(p) == len(cells) > 1 and any(map(_is_number, p)) for p in parts):
            return True
    return False


def _is_number(text: str) -> bool:
    return text.strip().replace(",", ".").replace(".", "", 1).isdecimal()


@contextmanager
def no_cell_limit() -> Iterator[None]:
    """Let cells be of any length: the csv module has a limit for the whole process."""
    before = csv.field_size_limit(_LARGEST_CELL)
    try:
        yield
    finally:
        csv.field_size_limit(before)
