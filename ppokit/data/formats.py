"""A table, and how the text of each format becomes one: CSV, JSON lines, a JSON list, plain text.

Rows that cannot be read are kept with the reason, so that a caller can name all of them.
The readers of `datasets` are not used for that: they settle one type per column, and one odd cell fails the
whole file.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from typing import Any

from ppokit.data.csv_records import Broken, holds_rows, no_cell_limit, records_of
from ppokit.errors import DataError
from ppokit.messages import listed, suggest

DELIMITERS = (",", ";", "\t")
_NAMES = {",": "comma", ";": "semicolon", "\t": "tab"}


@dataclass(frozen=True)
class BadRow:
    """A row that cannot be used.

    Attributes:
        row: its number, as a spreadsheet counts: the header is row 1, a blank row counts, and a cell with
            line breaks is still one row. In JSON lines and text, the line; elsewhere, from 1.
        reason: what is wrong with it, and what was expected.
    """

    row: int
    reason: str


@dataclass(frozen=True)
class Table:
    """What a file holds. A parsed file is shared between its readers: change nothing in it.

    Attributes:
        source: the file, as it was named.
        header: column names, without the blanks around them.
        rows: number and cells of each row, as many cells as the header; None where a row has no such cell.
        bad: rows that could not be read.
        of_text: whether all cells are text, as in a CSV.
        decimal_comma: whether `7,5` may stand for 7.5: the cells are text, and no commas stand between them.
        notes: how the file was read, for a person to check.
    """

    source: str
    header: tuple[str, ...]
    rows: list[tuple[int, list[Any]]]
    bad: list[BadRow] = field(default_factory=list)
    of_text: bool = False
    decimal_comma: bool = False
    notes: list[str] = field(default_factory=list)

    def index(self, column: str, advice: str = "") -> int:
        """Where a column stands.

        Args:
            advice: a sentence on how to name another column, for the error.

        Raises:
            DataError: it is missing, or there are several of that name.
        """
        count = self.header.count(column)
        if count == 1:
            return self.header.index(column)
        if count:
            numbers = listed(str(i) for i, name in enumerate(self.header, 1) if name == column)
            raise DataError(
                f"{self.source} has {count} columns {column!r} ({numbers}, from the left); rename all but "
                "one."
            )
        same = {name.casefold(): name for name in self.header}.get(column.casefold())
        near = f"; did you mean {same!r}?" if same is not None else suggest(column, self.header) or "."
        raise DataError(
            f"{self.source} has no column {column!r}; it has {listed(map(repr, self.header))}{near} {advice}"
            .rstrip()
        )  # fmt: skip

    def records(self) -> list[dict[str, Any]]:
        """Each row as a dictionary; an empty cell of a CSV is None.

        Raises:
            DataError: two columns have the same name.
        """
        columns = {name: self.cells(name) for name in self.header if name}
        return [dict(zip(columns, cells, strict=True)) for cells in zip(*columns.values(), strict=True)]

    def cells(self, column: str) -> list[Any]:
        """Those of a column, row by row; an empty one of a CSV is None.

        Raises:
            DataError: there is no such column, or several.
        """
        index, empty = self.index(column), "" if self.of_text else None
        return [None if row[index] == empty else row[index] for _, row in self.rows]


def parse_csv(text: str, path: str, known: Collection[str]) -> Table:
    """Records under a header, whatever stands between the cells.

    Args:
        known: columns that the caller looks for; they decide between delimiters.

    Raises:
        DataError: there is no header.
    """
    sep = re.match(r'"?sep=(.)"?\r?\n', text)  # a line for spreadsheet programs, which they do not show
    text = text[sep.end() :] if sep else text
    delimiter = sep[1] if sep else _delimiter(text, known)
    rows: list[tuple[int, list[Any]]] = []
    bad: list[BadRow] = []
    with no_cell_limit():
        records = enumerate(records_of(text, delimiter), 1)
        header = _header(records, path)
        width = len(header)
        suspects, odd = 0, []
        for number, cells in records:
            if isinstance(cells, Broken):
                bad.append(BadRow(number, cells.reason))
                suspects = max(suspects, number + cells.lines - 1)
                continue
            if len(cells) != width:
                if any(map(str.strip, cells[width:])):
                    bad.append(BadRow(number, _too_long(len(cells), width, delimiter)))
                    continue
                if number <= suspects and any(map(str.strip, cells)):
                    bad.append(BadRow(number, "it is rather part of a broken cell above than a row"))
                    continue
                # Spreadsheet programs leave out, or add, delimiters of empty cells at the end.
                cells = cells[:width] + [None] * (width - len(cells))  # type: ignore[list-item]
            if any(cell and not cell.isspace() for cell in cells):
                rows.append((number, cells))
                if holds_rows(cells, delimiter):
                    odd.append(number)
    notes = []
    if odd:
        others = f" (and of {len(odd) - 1:,} others)" if len(odd) > 1 else ""
        notes.append(
            f"a cell of row {odd[0]}{others} holds lines that could be rows of their own; is a closing quote "
            '(") missing there?'
        )
    return Table(path, header, rows, bad, of_text=True, decimal_comma=delimiter != ",", notes=notes)


def _header(records: Iterator[tuple[int, list[str] | Broken]], path: str) -> tuple[str, ...]:
    for number, cells in records:
        if isinstance(cells, Broken):
            raise DataError(f"{path} row {number}, the header: {cells.reason}")
        if any(map(str.strip, cells)):
            return tuple(cell.strip() for cell in cells)
    raise DataError(f"{path} is empty; expected a header and at least one row")


def _delimiter(text: str, known: Collection[str]) -> str:
    def score(delimiter: str) -> tuple[int, int]:
        header = next((cells for cells in records_of(text, delimiter) if cells), [])
        if isinstance(header, Broken):
            return (0, 0)
        return len({cell.strip() for cell in header} & set(known)), len(header)

    with no_cell_limit():
        return max(DELIMITERS, key=score)


def _too_long(cells: int, width: int, delimiter: str) -> str:
    name = _NAMES.get(delimiter, repr(delimiter))
    return f"{cells} cells, but the header has {width}; a cell that holds a {name} needs quotes around it"


def parse_json(text: str, path: str) -> Table:
    """Objects of a list, or one per line; they may differ in their keys.

    Raises:
        DataError: it is no JSON as a whole, or empty.
    """
    bad: list[BadRow] = []
    if text.lstrip()[:1] == "[":
        try:
            items = list(enumerate(json.loads(text), 1))
        except (ValueError, RecursionError) as error:
            raise DataError(f"{path} is not JSON: {error}") from error
    else:
        items = list(_json_lines(text, bad))
    names: dict[str, None] = {}
    objects: list[tuple[int, dict[str, Any]]] = []
    for number, item in items:
        if not isinstance(item, dict):
            bad.append(BadRow(number, f"{json.dumps(item)[:40]} is no JSON object"))
            continue
        names.update(dict.fromkeys(item))
        objects.append((number, item))
    if not objects and not bad:
        raise DataError(f"{path} is empty; expected at least one row")
    header = tuple(names)
    rows = [(number, [item.get(name) for name in header]) for number, item in objects]
    return Table(path, header, rows, sorted(bad, key=lambda row: row.row))


def _lines(text: str) -> Iterator[tuple[int, str]]:
    for number, line in enumerate(io.StringIO(text, newline=None), 1):  # splitlines would split at U+2028
        if line.strip():
            yield number, line.rstrip("\n")


def _json_lines(text: str, bad: list[BadRow]) -> Iterator[tuple[int, Any]]:
    for number, line in _lines(text):
        try:
            yield number, json.loads(line)
        except json.JSONDecodeError as error:
            bad.append(BadRow(number, f"not JSON: {error.msg}, at its character {error.pos + 1:,}"))
        except (ValueError, RecursionError) as error:
            bad.append(BadRow(number, f"not JSON: {error}"))


def parse_text(text: str, path: str) -> Table:
    """A row per line that is not blank, in the column `text`."""
    rows: list[tuple[int, list[Any]]] = [(number, [line]) for number, line in _lines(text)]
    if not rows:
        raise DataError(f"{path} is empty; expected at least one line")
    return Table(path, ("text",), rows)
