"""Ratings written to a file that spreadsheets, pandas and ppokit read alike."""

from __future__ import annotations

import csv
import json
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Any

from ppokit.data.atomic import replacing
from ppokit.data.tables import read_table
from ppokit.errors import DataError, first_line
from ppokit.ratings.layout import decimal_point
from ppokit.ratings.records import RatingColumns, RatingTable

RATING_COLUMNS = ("prompt", "response", "rating", "rater", "item")
PAIR_COLUMNS = ("prompt", "chosen", "rejected", "rater", "item")


def number(value: float | None) -> str:
    """A number as short as it can be without losing any of it; nothing for None."""
    if value is None:
        return ""
    return str(int(value)) if value == int(value) and abs(value) < 1e15 else repr(float(value))


def write_csv(path: str | Path, header: Sequence[str], rows: Iterable[Iterable[Any]]) -> int:
    """Write a new CSV file, whole or not at all; returns the number of rows.

    Raises:
        DataError: the file is there already, or cannot be written.
    """
    new_file(path)
    return replace_csv(Path(path).expanduser(), header, rows)


def replace_csv(file: Path, header: Sequence[str], rows: Iterable[Iterable[Any]]) -> int:
    """Write a CSV file, UTF-8 and RFC 4180, in the place of what was there; returns the number of rows.

    Raises:
        DataError: it cannot be written; what was there is unchanged.
    """
    count = 0
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with replacing(file) as tmp_path, tmp_path.open("w", encoding="utf-8", newline="") as out:
            writer = csv.writer(out)
            writer.writerow(header)
            for row in rows:
                writer.writerow(row)
                count += 1
    except OSError as error:
        raise DataError(f"{file} cannot be written: {first_line(error)}") from error
    return count


def new_file(path: str | Path) -> None:
    """Check that a file can be made: ratings are never overwritten.

    Raises:
        DataError: the file is there already, or is no CSV by its name.
    """
    file = Path(path).expanduser()
    if file.suffix.lower() != ".csv":
        raise DataError(f"{path} ends in {file.suffix or 'nothing'}; expected a file that ends in .csv.")
    if file.exists():
        raise DataError(f"{path} is there already and is not overwritten; give another name, or remove it.")


def write_table(path: str | Path, table: RatingTable) -> int:
    """Write the ratings or the pairs of a table in ppokit's own columns; returns the number of rows."""
    if table.pairs:
        pairs = ((p.prompt, p.chosen, p.rejected, p.rater, p.item) for p in table.pairs)
        return write_csv(path, PAIR_COLUMNS, pairs)
    ratings = ((r.prompt, r.response, number(r.rating), r.rater, r.item) for r in table.ratings)
    return write_csv(path, RATING_COLUMNS, ratings)


def write_rows(path: str | Path, source: str | Path, columns: RatingColumns, kept: Collection[int]) -> int:
    """Write some rows of a ratings file, with all of its columns; returns how many.

    They stay as they are, but for decimal commas in ratings and aspects: with commas between the cells, `7,5`
    would be no number.

    Args:
        columns: as the file was read with; they decide between delimiters.
        kept: numbers of the rows.
    """
    table = read_table(source, columns.known)
    names = {columns.rating, *columns.aspects} if table.decimal_comma else set()
    numbers = [index for index, name in enumerate(table.header) if name in names]

    def written(cells: list[Any]) -> list[Any]:
        texts = [_cell(cell) for cell in cells]
        for index in numbers:
            texts[index] = decimal_point(str(texts[index]))
        return texts

    return write_csv(path, table.header, (written(cells) for row, cells in table.rows if row in kept))


def _cell(value: Any) -> Any:
    if isinstance(value, list | dict):
        return json.dumps(value, ensure_ascii=False)
    return "" if value is None else value
