"""Where the cells of a ratings file stand, and how a row of them becomes a rating or a pair."""

from __future__ import annotations

import hashlib
import math
import re
from typing import Any

from ppokit.errors import DataError
from ppokit.messages import listed, shorten, shown, suggest
from ppokit.ratings.records import Pair, Rating, RatingColumns
from ppokit.ratings.rows import Rows

_NUMBER = re.compile(r"[+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?", re.ASCII)
_SURROGATE = re.compile("[\ud800-\udfff]")
_Cells = list[Any]


class Layout:
    """Where a file's cells stand, and how they become ratings or pairs.

    Attributes:
        holds_pairs: whether the file holds pairs.
        place: column number of each part that the file must have.

    Raises:
        DataError: a column is missing, or stands twice.
    """

    def __init__(self, source: str, rows: Rows, columns: RatingColumns) -> None:
        self.source, self.header, self.decimal_comma = source, rows.header, rows.decimal_comma
        have = set(rows.header)
        self.holds_pairs = columns.rating not in have and {columns.chosen, columns.rejected} <= have
        needed = ("chosen", "rejected") if self.holds_pairs else ("response", "rating")
        self.place = {name: self._find(name, getattr(columns, name)) for name in ("prompt", *needed)}
        self.rater = self._optional("rater", columns.rater)
        self.split = self._optional("split", columns.split)
        self.item = self._optional("item", columns.item)
        self.aspects = {name: self._find("aspects", name) for name in columns.aspects}
        if columns.item is None and self.item is not None and self._numbers_rows(rows, self.item):
            self.item = None
            rows.notes.append(
                "the column 'item' differs in every row, though texts are repeated, so the items are the "
                "distinct texts (to keep the column: --column item=item)"
            )

    def _find(self, name: str, column: str) -> int:
        count = self.header.count(column)
        if count == 1:
            return self.header.index(column)
        if count:
            places = listed(str(i) for i, other in enumerate(self.header, 1) if other == column)
            raise DataError(
                f"{self.source} has {count} columns {column!r} ({places}, from the left); rename all but one."
            )
        folded = {other.casefold(): other for other in self.header}
        same = folded.get(column.casefold())
        near = f"; did you mean {same!r}?" if same is not None else suggest(column, self.header) or "."
        raise DataError(
            f"{self.source} has no column {column!r} for {name}; it has {listed(map(repr, self.header))}"
            f"{near} Say which holds it: --column {name}=NAME, or columns.{name} in a recipe."
        )

    def _optional(self, name: str, column: str | None) -> int | None:
        if column is None and name not in self.header:
            return None
        return self._find(name, column or name)

    def _numbers_rows(self, rows: Rows, item: int) -> bool:
        places = [place for name, place in self.place.items() if name != "rating"]
        items = [cells[item] for _, cells in rows.rows if cells[item] not in (None, "")]
        texts = {tuple(str(cells[place]) for place in places) for _, cells in rows.rows}
        return len(set(map(str, items))) == len(rows.rows) > len(texts)

    def rating(self, row: int, cells: _Cells, faults: list[str]) -> Rating:
        """A row as a rating; where `faults` are added it is not one."""
        prompt = self._prompt(cells, faults)
        response = self._text("response", cells, faults)
        rating = self._number("rating", cells[self.place["rating"]], faults)
        aspects = {
            name: None if _missing(cells[place]) else self._number(name, cells[place], faults)
            for name, place in self.aspects.items()
        }
        item = self._name(self.item, cells) or _digest(prompt, response)
        split = self._name(self.split, cells) or None
        return Rating(row, prompt, response, rating, self._name(self.rater, cells), item, split, aspects)

    def pair(self, row: int, cells: _Cells, faults: list[str]) -> Pair:
        """A row as a pair; where `faults` are added it is not one."""
        prompt = self._prompt(cells, faults)
        chosen = self._text("chosen", cells, faults)
        rejected = self._text("rejected", cells, faults)
        if not faults and chosen == rejected:
            faults.append("chosen and rejected are the same text; a tie cannot be learnt from")
        item = self._name(self.item, cells) or _digest(prompt, *sorted((chosen, rejected)))
        split = self._name(self.split, cells) or None
        return Pair(row, prompt, chosen, rejected, self._name(self.rater, cells), item, split)

    def _prompt(self, cells: _Cells, faults: list[str]) -> str:
        found = len(faults)
        text = self._text("prompt", cells, faults)
        if len(faults) == found and (not text or text.isspace()):
            faults.append("prompt is empty; expected text")
        return text

    def _text(self, name: str, cells: _Cells, faults: list[str]) -> str:
        value = cells[self.place[name]]
        if value is None:
            faults.append(f"{name} is missing; expected text")
        elif not isinstance(value, str):
            faults.append(f"{name} is {shown(value)}; expected text")
        elif _SURROGATE.search(value):
            faults.append(f"{name} holds what is no UTF-8 text; type that place again and save as CSV UTF-8")
        else:
            return value
        return ""

    def _number(self, name: str, value: Any, faults: list[str]) -> float:
        if isinstance(value, int | float) and not isinstance(value, bool):
            number = float(value) if abs(value) < 1e300 else math.inf
        elif _missing(value):
            faults.append(f"{name} is empty; expected a number")
            return math.nan
        else:
            text = str(value).strip()
            if self.decimal_comma:
                text = decimal_point(text)
            if not _NUMBER.fullmatch(text) or isinstance(value, bool):
                faults.append(f"{name} is {shown(value)}; expected a number{self._hint(text)}")
                return math.nan
            number = float(text)
        if not math.isfinite(number):
            faults.append(f"{name} is {shorten(str(value))}; expected a finite number")
        return number

    def _hint(self, text: str) -> str:
        comma = not self.decimal_comma and re.fullmatch(r"-?\d+,\d+", text, re.ASCII)
        return " (7.5, not 7,5: commas stand between the cells)" if comma else ""

    @staticmethod
    def _name(place: int | None, cells: _Cells) -> str:
        if place is None or cells[place] is None:
            return ""
        return str(cells[place]).strip()


def decimal_point(text: str) -> str:
    """`7,5` as `7.5`, where commas do not stand between the cells; other text as it is."""
    one = text.count(",") == 1 and "." not in text
    return text.replace(",", ".") if one and _NUMBER.fullmatch(text.strip().replace(",", ".")) else text


def _missing(value: Any) -> bool:
    return value is None or (isinstance(value, str) and not value.strip())


def _digest(*texts: str) -> str:
    hashed = hashlib.sha256("\x00".join(texts).encode("utf-8", "surrogatepass"))
    return hashed.hexdigest()[:16]
