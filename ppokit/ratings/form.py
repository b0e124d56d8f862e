"""How a row of a file that other tools wrote becomes ratings or pairs, and what such rows have in common."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

from ppokit.data.formats import Table
from ppokit.errors import DataError
from ppokit.messages import listed, shorten
from ppokit.ratings.records import RatingColumns

_FIRST = frozenset({"response_1", "response_a", "1", "a", "left", "model_a"})
_SECOND = frozenset({"response_2", "response_b", "2", "b", "right", "model_b"})
_TIES = ("tie", "both", "neither", "equal")
Record = list[Any]  # cells of RATING_COLUMNS, or of PAIR_COLUMNS
Row = Mapping[str, Any]
_T = TypeVar("_T")


class Form:
    """How a row of a form becomes ratings or pairs.

    Args:
        table: the file.
        columns: names that a person gave; those left at their defaults are the form's own.

    Attributes:
        pairs: whether the file holds pairs.
        question: how messages name the answers.

    Raises:
        DataError: the file lacks the form's columns.
    """

    pairs = True
    question = "rating"

    def __init__(self, table: Table, columns: RatingColumns) -> None:
        self.source, self.header, self.columns = table.source, table.header, columns

    def has(self, *columns: str) -> bool:
        return set(columns) <= set(self.header)

    def expect(self, *kinds: tuple[str, ...]) -> None:
        """The columns of one kind of such files, at least."""
        if not any(self.has(*names) for names in kinds):
            expected = ", or ".join(listed(names, "and") for names in kinds)
            raise DataError(
                f"{self.source} has the columns {listed(map(repr, self.header))}; expected {expected}."
            )

    def rows(self, table: Table, left_out: Counter[str]) -> Iterator[tuple[int, list[Record] | str]]:
        """Of each row its number and its records, or why there are none."""
        for number, cells in table.rows:
            row = dict(zip(table.header, cells, strict=True))
            yield number, attempt(partial(self.read, row, left_out))

    def read(self, row: Row, left_out: Counter[str]) -> list[Record]:
        """Records of a row; ValueError says why there are none."""
        raise NotImplementedError

    def rater(self, row: Row, *own: str) -> Any:
        return first_of(row, self.columns.rater) if self.columns.rater else first_of(row, *own)

    def item(self, row: Row, *own: str) -> Any:
        return first_of(row, self.columns.item) if self.columns.item else first_of(row, *own)


def attempt(read: Callable[[], _T]) -> _T | str:
    """What is read of a row, or why it cannot be: the lists and objects in its cells may hold anything."""
    try:
        return read()
    except ValueError as error:
        return str(error)
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        return f"not in the form of such files: {type(error).__name__}: {error}"


def first_of(row: Row, *names: str) -> Any:
    return next((row[name] for name in names if row.get(name) not in (None, "")), None)


def parsed_cell(cell: Any) -> Any:
    """A cell's list or object; in a CSV it is JSON."""
    if not isinstance(cell, str):
        return cell
    try:
        return json.loads(cell) if cell.strip() else None
    except ValueError as error:
        raise ValueError(f"{shorten(repr(cell))} is not JSON: {error}") from error


def better_first(
    two: Sequence[Any], answer: str, question: str, left_out: Counter[str]
) -> tuple[Any, Any] | None:
    """Two responses, the one that was preferred first; None for a tie, which is counted."""
    word = answer.strip().lower()
    if word.startswith(_TIES):
        left_out["ties"] += 1
        return None
    if word not in _FIRST | _SECOND:
        raise ValueError(f"{question} is {shorten(repr(answer))}; expected the first or the second response")
    first, second = two
    return (first, second) if word in _FIRST else (second, first)
