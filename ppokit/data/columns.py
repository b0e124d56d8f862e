"""The columns of a prompts' file, read without loading the data set."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any, TextIO

from ppokit.data.csv_records import no_cell_limit
from ppokit.errors import DataError
from ppokit.messages import listed

SUFFIXES = (".jsonl", ".json", ".csv", ".parquet", ".txt")


def is_local(path: str) -> bool:
    """Whether a path means a file or folder here, not a data set on the hub."""
    return (
        path.lower().endswith(SUFFIXES)
        or path.startswith(("./", "../", "/", "~"))
        or Path(path).expanduser().exists()
    )


def read_columns(path: str) -> tuple[str, ...] | None:
    """Column names of a local file; None for a folder.

    Raises:
        DataError: it is not there, cannot be read, or has no rows.
    """
    file = Path(path).expanduser()
    if file.is_dir():
        return None
    if not file.exists():
        raise DataError(f"there is no file {path}")
    suffix = file.suffix.lower()
    if suffix not in SUFFIXES:
        raise DataError(f"{path} ends in {suffix or 'nothing'}; expected {listed(SUFFIXES, 'or')}")
    try:
        columns = _parquet(file) if suffix == ".parquet" else _text(file, suffix)
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text") from error
    except (OSError, csv.Error) as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    if columns is None:
        raise DataError(f"{path} has no rows; expected at least one prompt")
    return columns


def _text(file: Path, suffix: str) -> tuple[str, ...] | None:
    with file.open(encoding="utf-8-sig", newline="" if suffix == ".csv" else None) as lines:
        if suffix == ".txt":
            return ("text",) if any(line.strip() for line in lines) else None
        if suffix == ".csv":
            return _csv(file, lines)
        columns: dict[str, None] = {}
        if suffix == ".json":
            first_mark = lines.read(1)
            while first_mark.isspace():
                first_mark = lines.read(1)
            lines.seek(0)
            if first_mark == "[":
                return _keys(file, "row 1", _first_item(file, lines.read()))
        # Rows may differ in their keys, so each counts; a bad line is found here and not in the run.
        for number, line in enumerate(lines, 1):
            if line.strip():
                columns.update(dict.fromkeys(_keys(file, f"line {number}", _json(file, number, line)) or ()))
        return tuple(columns) or None


def _csv(file: Path, lines: TextIO) -> tuple[str, ...] | None:
    """The header, once every row is found to fit under it."""
    reader = csv.reader(lines, strict=True)
    header: tuple[str, ...] = ()
    rows, first = 0, 1
    with no_cell_limit():
        try:
            for cells in reader:
                if not header:
                    header = tuple(cells)
                elif cells:
                    rows += 1
                    if any(cell.strip() for cell in cells[len(header) :]):
                        raise DataError(
                            f"{file} line {first} has {len(cells)} cells under a header of {len(header)}; "
                            "expected quotes around a cell with a comma in it"
                        )
                first = reader.line_num + 1
        except csv.Error as error:
            raise DataError(
                f"{file} line {first} is no row of a CSV file: {error}; expected each quote to be closed, "
                "and doubled within a quoted cell"
            ) from error
    return header if rows else None


def check_csv(file: Path) -> None:
    """That every row fits under the header: who reads it into a table would shift or swallow cells.

    Raises:
        DataError: one does not; it names its line.
    """
    with file.open(encoding="utf-8-sig", newline="") as lines:
        _csv(file, lines)


def _json(file: Path, number: int, line: str) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{file} line {number} is not JSON: {error}") from error


def _first_item(file: Path, text: str) -> Any:
    body = text.lstrip("\ufeff \t\r\n")[1:].lstrip()
    if body.startswith("]"):
        return None
    try:
        return json.JSONDecoder().raw_decode(body)[0]
    except (ValueError, RecursionError) as error:
        raise DataError(f"{file} is not JSON: {error}") from error


def _keys(file: Path, where: str, row: Any) -> tuple[str, ...] | None:
    if row is None:
        return None
    if not isinstance(row, dict):
        raise DataError(f"{file} {where} is not a JSON object")
    return tuple(row)


def _parquet(file: Path) -> tuple[str, ...] | None:
    import pyarrow
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(file) as table:
            return tuple(table.schema_arrow.names) if table.metadata.num_rows else None
    except pyarrow.ArrowException as error:
        raise DataError(f"{file} is not a Parquet file: {error}") from error
