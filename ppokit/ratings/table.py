"""A file of people's ratings, read row by row: what each row says, and what is wrong with it.

Two kinds of file: ratings (prompt, response, rating) and pairs (prompt, chosen, rejected). A rater, an item,
a split and aspect columns are read where they are there.
"""

from __future__ import annotations

import warnings
from collections import defaultdict
from pathlib import Path
from typing import Any, Literal

from ppokit.errors import DataError, PpokitWarning
from ppokit.ratings.layout import Layout
from ppokit.ratings.records import Pair, Rating, RatingColumns, RatingTable
from ppokit.ratings.rows import BadRow, Rows, read_rows

__all__ = [
    "BadRow",
    "OnBadRow",
    "Pair",
    "Rating",
    "RatingColumns",
    "RatingTable",
    "mean_ratings",
    "pairs_of",
    "read_for_fit",
    "read_for_run",
    "read_ratings",
    "read_with_cells",
    "table_of",
    "warn_of_bad_rows",
]

SHOWN_BAD_ROWS = 20
OnBadRow = Literal["fail", "skip"]


def read_ratings(
    path: str | Path,
    columns: RatingColumns | None = None,
    *,
    on_bad_row: OnBadRow = "fail",
) -> RatingTable:
    """Read a file of ratings or pairs.

    Text stays as it is: `NA` and `None` are words, blanks are kept. An empty response is a response (a model
    may say nothing, and people rate that); an empty prompt, or a response that is missing, makes a bad row.
    A rating is a finite number in digits; with semicolons or tabs between the cells, `7,5` is one too.

    Args:
        path: `.csv` or `.tsv` (commas, semicolons or tabs; UTF-8, UTF-16 with its mark, or Windows-1252,
            which is noted), `.jsonl`, `.json` or `.parquet`.
        columns: which column holds what; names as in `RatingColumns` by default.
        on_bad_row: `fail` refuses the file, naming its bad rows; `skip` leaves them out, and keeps them in
            the table with their reasons.

    Raises:
        DataError: the file cannot be read, lacks a column, has a bad row under `fail`, or no good row.
    """
    columns = columns or RatingColumns()
    return table_of(read_rows(path, _known(columns)), str(path), columns, on_bad_row=on_bad_row)


def read_for_run(path: str | Path, columns: RatingColumns, *, on_bad_row: OnBadRow) -> RatingTable:
    """As `read_ratings`; a warning counts the rows that are left out, since a run shows no table of them."""
    table = read_ratings(path, columns, on_bad_row=on_bad_row)
    warn_of_bad_rows(table)
    return table


def warn_of_bad_rows(table: RatingTable) -> None:
    """Count the rows that are left out, and name the first."""
    if table.bad_rows:
        first = table.bad_rows[0]
        warnings.warn(
            f"{table.source}: bad rows left out: {len(table.bad_rows):,} (on_bad_row: skip), the first is "
            f"row {first.row}: {first.reason}",
            PpokitWarning,
            stacklevel=3,
        )


def read_with_cells(
    path: str | Path, columns: RatingColumns, *, on_bad_row: OnBadRow
) -> tuple[RatingTable, dict[int, dict[str, Any]]]:
    """As `read_ratings`, and every cell by the number of its row and the name of its column."""
    rows = read_rows(path, _known(columns))
    table = table_of(rows, str(path), columns, on_bad_row=on_bad_row)
    return table, {number: dict(zip(rows.header, cells, strict=True)) for number, cells in rows.rows}


def read_for_fit(path: str | Path, columns: RatingColumns, *, on_bad_row: OnBadRow) -> RatingTable:
    """As `read_ratings`; where the file has a column `pair` that plainly says so, choices in two rows each.

    That is: no `item`, in each two responses to one prompt, and two different ratings in all, as 0 and 1.
    """
    rows = read_rows(path, _known(columns))
    table = table_of(rows, str(path), columns, on_bad_row=on_bad_row)
    if columns.item is not None or "item" in rows.header or "pair" not in rows.header:
        return table
    named = columns.model_copy(update={"item": "pair"})
    paired = table_of(rows, str(path), named, on_bad_row=on_bad_row)
    groups: dict[str, set[tuple[str, str]]] = defaultdict(set)
    for rating in paired.ratings:
        groups[rating.item].add((rating.prompt, rating.response))
    two = all(len(texts) == 2 and len({prompt for prompt, _ in texts}) == 1 for texts in groups.values())
    if not groups or not two or len({rating.rating for rating in paired.ratings}) != 2:
        return table
    paired.notes.append("rows of one 'pair' are read as a choice (--column item=NAME names another column)")
    return paired


def table_of(rows: Rows, source: str, columns: RatingColumns, *, on_bad_row: OnBadRow) -> RatingTable:
    """As `read_ratings`, from rows that have been read."""
    layout = Layout(source, rows, columns)
    ratings: list[Rating] = []
    pairs: list[Pair] = []
    bad = list(rows.bad)
    for number, cells in rows.rows:
        faults: list[str] = []
        made = (layout.pair if layout.holds_pairs else layout.rating)(number, cells, faults)
        if faults:
            bad.append(BadRow(number, "; ".join(faults)))
        elif isinstance(made, Pair):
            pairs.append(made)
        else:
            ratings.append(made)
    bad.sort(key=lambda row: row.row)
    good = len(ratings) + len(pairs)
    if bad and (on_bad_row == "fail" or not good):
        raise DataError(_told(source, bad, len(bad) + good, on_bad_row))
    if not good:
        raise DataError(f"{source} has a header but no rows; expected at least one rating")
    return RatingTable(source, ratings, pairs, bad, rows.notes)


def mean_ratings(table: RatingTable) -> dict[tuple[str, str], float]:
    """Mean rating of each response to each prompt, in the file's order."""
    given: dict[tuple[str, str], list[float]] = defaultdict(list)
    for rating in table.ratings:
        given[rating.prompt, rating.response].append(rating.rating)
    return {key: sum(numbers) / len(numbers) for key, numbers in given.items()}


def pairs_of(table: RatingTable) -> list[Pair]:
    """Pairs from ratings: two responses that one rater rated differently within one item.

    A file in which each pair is two rows is read with `RatingColumns(item="pair")`. Equal ratings make no
    pair; of more than two responses, each two make one. A table of pairs gives its own.

    Raises:
        DataError: an item holds several prompts.
    """
    groups: dict[tuple[str, str], list[Rating]] = defaultdict(list)
    for rating in table.ratings:
        groups[rating.item, rating.rater].append(rating)
    pairs = list(table.pairs)
    for group in groups.values():
        first = group[0]
        for rating in group:
            if rating.prompt != first.prompt:
                raise DataError(
                    f"{table.source}: rows {first.row} and {rating.row} share the item {first.item!r} but "
                    "not the prompt; a pair is two responses to one prompt."
                )
        for a in group:
            for b in group:
                if a.rating > b.rating and a.response != b.response:
                    pairs.append(Pair(a.row, a.prompt, a.response, b.response, a.rater, a.item, a.split))
    return pairs


def _known(columns: RatingColumns) -> set[str]:
    return {columns.prompt, columns.response, columns.rating, columns.chosen, columns.rejected}


def _told(source: str, bad: list[BadRow], total: int, on_bad_row: OnBadRow) -> str:
    lines = [f"{source}: {len(bad):,} of {total:,} rows cannot be used"]
    lines += [f"  row {row.row}: {row.reason}" for row in bad[:SHOWN_BAD_ROWS]]
    if len(bad) > SHOWN_BAD_ROWS:
        lines.append(f"  and {len(bad) - SHOWN_BAD_ROWS:,} more")
    lines.append(
        "Correct them, or leave them out: on_bad_row: skip in a recipe, --on-bad-row skip here."
        if on_bad_row == "fail"
        else "Without them nothing is left: correct them, or say which column holds what."
    )
    return "\n".join(lines)
