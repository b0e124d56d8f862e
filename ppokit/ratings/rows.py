"""The rows of a CSV, JSON or Parquet file, each with its number, whatever program wrote the file.

Rows that cannot be read are kept beside the others with the reason, so that a caller can name all of them.
That is why the readers of `datasets` are not used: they settle one type a column, and one odd cell fails the
whole file.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ppokit.data.csv_records import Broken, holds_rows, no_cell_limit, records_of
from ppokit.errors import DataError, first_line
from ppokit.messages import listed

SUFFIXES = (".csv", ".tsv", ".jsonl", ".json", ".parquet")
DELIMITERS = (",", ";", "\t")
_BOMS = ((b"\xef\xbb\xbf", "utf-8"), (b"\xff\xfe", "utf-16-le"), (b"\xfe\xff", "utf-16-be"))


@dataclass(frozen=True)
class BadRow:
    """A row that cannot be used.

    Attributes:
        row: its number, as a spreadsheet counts: the header is row 1, a blank row counts, and a cell with
            line breaks is still one row. In JSON lines, the line; in a JSON list and in Parquet, from 1.
        reason: what is wrong with it, and what was expected.
    """

    row: int
    reason: str


@dataclass
class Rows:
    """What a file holds.

    Attributes:
        header: column names, without the blanks around them.
        rows: number and cells of each row, as many cells as the header; None where a row has no such cell.
        bad: rows that could not be read.
        decimal_comma: whether `7,5` may stand for 7.5: the delimiter is no comma.
        notes: what a reader should be told, such as another encoding than UTF-8.
    """

    header: tuple[str, ...]
    rows: list[tuple[int, list[Any]]] = field(default_factory=list)
    bad: list[BadRow] = field(default_factory=list)
    decimal_comma: bool = False
    notes: list[str] = field(default_factory=list)


def read_rows(path: str | Path, known: Collection[str]) -> Rows:
    """The rows of a local file.

    Args:
        path: a `.csv`, `.tsv`, `.jsonl`, `.json` or `.parquet` file.
        known: column names that the caller looks for; they decide between delimiters.

    Raises:
        DataError: the file as a whole cannot be read, or is empty.
    """
    file = Path(path).expanduser()
    suffix = file.suffix.lower()
    if not file.is_file():
        raise DataError(f"there is no file {path}" if not file.exists() else f"{path} is not a file")
    if suffix not in SUFFIXES:
        raise DataError(
            f"{path} ends in {suffix or 'nothing'}; expected {listed(SUFFIXES, 'or')}. A spreadsheet "
            "program saves a sheet as CSV UTF-8."
        )
    if suffix == ".parquet":
        return _parquet(file)
    try:
        data = file.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {first_line(error)}") from error
    notes: list[str] = []
    text = _decode(data, str(path), notes)
    rows = _csv(text, str(path), known) if suffix in (".csv", ".tsv") else _json(text, str(path))
    rows.notes[:0] = notes
    return rows


def _decode(data: bytes, path: str, notes: list[str]) -> str:
    """Text of a file; bytes that are not UTF-8 become lone surrogates where the rest of it is UTF-8."""
    for mark, encoding in _BOMS:
        if data.startswith(mark):
            if encoding != "utf-8":
                notes.append(f"read as {encoding.upper()}, as its byte order mark says")
                try:
                    return data[len(mark) :].decode(encoding)
                except UnicodeDecodeError as error:
                    raise DataError(
                        f"{path} begins as {encoding.upper()} but is not: {error.reason}"
                    ) from error
            data = data[len(mark) :]
    if data[:400].count(0) > len(data[:400]) // 4:
        raise DataError(
            f"{path} looks like UTF-16 without a byte order mark, or is no text; save it as CSV UTF-8."
        )
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        escaped = data.decode("utf-8", errors="surrogateescape")
    wrong = sum("\udc80" <= c <= "\udcff" for c in escaped)
    right = sum(c > "\x7f" for c in escaped) - wrong
    if right >= wrong:  # UTF-8 with damaged places: the rows that hold them are bad
        return escaped
    try:
        text = data.decode("cp1252")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path} is neither UTF-8 nor Windows-1252 text (byte {error.start:,} is "
            f"0x{data[error.start]:02x}); save it as CSV UTF-8."
        ) from error
    place = next(i for i, c in enumerate(text) if c > "\x7f")
    notes.append(
        f"not UTF-8, so read as Windows-1252, the older encoding of spreadsheets; see whether "
        f"{' '.join(text[max(0, place - 15) : place + 15].split())!r} is right, and save it as CSV UTF-8"
    )
    return text


def _csv(text: str, path: str, known: Collection[str]) -> Rows:
    said = re.match(r'"?sep=(.)"?\r?\n', text)  # a line for spreadsheet programs, which they do not show
    text = text[said.end() :] if said else text
    delimiter = said[1] if said else _delimiter(text, known)
    rows = Rows((), decimal_comma=delimiter != ",")
    with no_cell_limit():
        records = enumerate(records_of(text, delimiter), 1)
        for number, cells in records:
            if isinstance(cells, list) and any(map(str.strip, cells)):
                rows.header = tuple(cell.strip() for cell in cells)
                break
            if isinstance(cells, Broken):
                raise DataError(f"{path} row {number}, the header: {cells.reason}")
        else:
            raise DataError(f"{path} is empty; expected a header and at least one row")
        width = len(rows.header)
        suspects, odd = 0, []
        for number, cells in records:
            if isinstance(cells, Broken):
                rows.bad.append(BadRow(number, cells.reason))
                suspects = max(suspects, number + cells.lines - 1)
                continue
            if len(cells) != width:
                if any(map(str.strip, cells[width:])):
                    rows.bad.append(BadRow(number, _too_long(len(cells), width, delimiter)))
                    continue
                if number <= suspects and any(map(str.strip, cells)):
                    rows.bad.append(BadRow(number, "it is rather part of a broken cell above than a row"))
                    continue
                # Spreadsheet programs leave out, or add, delimiters of empty cells at the end.
                cells = cells[:width] + [None] * (width - len(cells))  # type: ignore[list-item]
            if any(cell and not cell.isspace() for cell in cells):
                rows.rows.append((number, cells))
                if holds_rows(cells, delimiter):
                    odd.append(number)
    if odd:
        others = f" (and of {len(odd) - 1:,} others)" if len(odd) > 1 else ""
        rows.notes.append(
            f"a cell of row {odd[0]}{others} holds lines that could be rows of their own; is a closing quote "
            '(") missing there?'
        )
    return rows


def _delimiter(text: str, known: Collection[str]) -> str:
    def told(delimiter: str) -> tuple[int, int]:
        header = next((cells for cells in records_of(text, delimiter) if cells), [])
        if isinstance(header, Broken):
            return (0, 0)
        return len({cell.strip() for cell in header} & set(known)), len(header)

    with no_cell_limit():
        return max(DELIMITERS, key=told)


def _too_long(cells: int, width: int, delimiter: str) -> str:
    name = {",": "comma", ";": "semicolon", "\t": "tab"}.get(delimiter, repr(delimiter))
    return f"{cells} cells, but the header has {width}; a cell that holds a {name} needs quotes around it"


def _json(text: str, path: str) -> Rows:
    items: Iterable[tuple[int, Any]]
    bad: list[BadRow] = []
    if text.lstrip()[:1] == "[":
        try:
            items = list(enumerate(json.loads(text), 1))
        except (ValueError, RecursionError) as error:
            raise DataError(f"{path} is not JSON: {error}") from error
    else:
        items = list(_json_lines(text, bad))
    found: dict[str, None] = {}
    objects: list[tuple[int, dict[str, Any]]] = []
    for number, item in items:
        if not isinstance(item, dict):
            bad.append(BadRow(number, f"{json.dumps(item)[:40]} is no JSON object"))
            continue
        found.update(dict.fromkeys(item))
        objects.append((number, item))
    if not objects and not bad:
        raise DataError(f"{path} is empty; expected at least one row")
    header = tuple(found)
    rows = [(number, [item.get(name) for name in header]) for number, item in objects]
    return Rows(header, rows, sorted(bad, key=lambda row: row.row))


def _json_lines(text: str, bad: list[BadRow]) -> Iterator[tuple[int, Any]]:
    for number, line in enumerate(io.StringIO(text), 1):  # not splitlines: U+2028 may stand inside a text
        if not line.strip():
            continue
        try:
            yield number, json.loads(line)
        except json.JSONDecodeError as error:
            bad.append(BadRow(number, f"not JSON: {error.msg}, at its character {error.pos + 1:,}"))
        except (ValueError, RecursionError) as error:
            bad.append(BadRow(number, f"not JSON: {error}"))


def _parquet(file: Path) -> Rows:
    import pyarrow
    from pyarrow import parquet

    try:
        table = parquet.read_table(file)
        columns = [column.to_pylist() for column in table.columns]
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        raise DataError(f"{file} is not a Parquet file: {first_line(error)}") from error
    if not table.num_rows:
        raise DataError(f"{file} is empty; expected at least one row")
    return Rows(
        tuple(table.column_names), [(i, list(row)) for i, row in enumerate(zip(*columns, strict=True), 1)]
    )
