"""A file of people's ratings, read row by row: what each row says, and what is wrong with it.

Two kinds of file: ratings (prompt, response, rating) and pairs (prompt, chosen, rejected). A rater, an item,
a split and aspect columns are read where they are there.
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

from ppokit.data.formats import BadRow, Table
from ppokit.data.tables import OnBadRow, read_table, refuse_bad_rows, warn_of_bad_rows
from ppokit.errors import DataError
from ppokit.ratings.layout import Layout
from ppokit.ratings.records import Pair, Rating, RatingColumns, RatingTable

__all__ = [
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
    "warn_of_skipped_rows",
]


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
        path: a file as in `ppokit.data.tables.read_table`.
        columns: which column holds what; names as in `RatingColumns` by default.
        on_bad_row: `fail` refuses the file, naming its bad rows; `skip` leaves them out, and keeps them in
            the table with their reasons.

    Raises:
        DataError: the file cannot be read, lacks a column, has a bad row under `fail`, or no good row.
    """
    columns = columns or RatingColumns()
    return table_of(read_table(path, columns.known), columns, on_bad_row=on_bad_row)


def read_for_run(path: str | Path, columns: RatingColumns, *, on_bad_row: OnBadRow) -> RatingTable:
    """As `read_ratings`, with a warning as of `warn_of_skipped_rows`."""
    table = read_ratings(path, columns, on_bad_row=on_bad_row)
    warn_of_skipped_rows(table)
    return table


def warn_of_skipped_rows(table: RatingTable) -> None:
    """Count the rows that are left out in a warning, since a run shows no table of them."""
    warn_of_bad_rows(table.source, table.bad_rows)


def read_with_cells(
    path: str | Path, columns: RatingColumns, *, on_bad_row: OnBadRow
) -> tuple[RatingTable, dict[int, dict[str, Any]]]:
    """As `read_ratings`, and every cell by the number of its row and the name of its column."""
    source = read_table(path, columns.known)
    table = table_of(source, columns, on_bad_row=on_bad_row)
    return table, {number: dict(zip(source.header, cells, strict=True)) for number, cells in source.rows}


def read_for_fit(path: str | Path, columns: RatingColumns, *, on_bad_row: OnBadRow) -> RatingTable:
    """As `read_ratings`; where the file has a column `pair` that plainly says so, choices in two rows each.

    That is: no `item`, in each two responses to one prompt, and two different ratings in all, as 0 and 1.
    """
    source = read_table(path, columns.known)
    table = table_of(source, columns, on_bad_row=on_bad_row)
    if columns.item is not None or "item" in source.header or "pair" not in source.header:
        return table
    named = columns.model_copy(update={"item": "pair"})
    paired = table_of(source, named, on_bad_row=on_bad_row)
    groups: dict[str, set[tuple[str, str]]] = defaultdict(set)
    for rating in paired.ratings:
        groups[rating.item].add((rating.prompt, rating.response))
    two = all(len(texts) == 2 and len({prompt for prompt, _ in texts}) == 1 for texts in groups.values())
    if not groups or not two or len({rating.rating for rating in paired.ratings}) != 2:
        return table
    paired.notes.append("rows of one 'pair' are read as a choice (--column item=NAME names another column)")
    return paired


def table_of(source: Table, columns: RatingColumns, *, on_bad_row: OnBadRow) -> RatingTable:
    """As `read_ratings`, from a file that has been parsed."""
    layout = Layout(source, columns)
    ratings: list[Rating] = []
    pairs: list[Pair] = []
    bad = list(source.bad)
    for number, cells in source.rows:
        faults: list[str] = []
        record = (layout.pair if layout.holds_pairs else layout.rating)(number, cells, faults)
        if faults:
            bad.append(BadRow(number, "; ".join(faults)))
        elif isinstance(record, Pair):
            pairs.append(record)
        else:
            ratings.append(record)
    bad.sort(key=lambda row: row.row)
    good = len(ratings) + len(pairs)
    refuse_bad_rows(source.source, bad, good, on_bad_row)
    if not good:
        raise DataError(f"{source.source} has a header but no rows; expected at least one rating")
    return RatingTable(source.source, ratings, pairs, bad, [*source.notes, *layout.notes])


def mean_ratings(table: RatingTable) -> dict[tuple[str, str], float]:
    """Mean rating of each response to each prompt, in the file's order."""
    numbers: dict[tuple[str, str], list[float]] = defaultdict(list)
    for rating in table.ratings:
        numbers[rating.prompt, rating.response].append(rating.rating)
    return {key: sum(values) / len(values) for key, values in numbers.items()}


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
