"""Which columns of a ratings file hold what, and how a row of cells becomes a rating or a pair."""

from __future__ import annotations

import hashlib
import math
import re
from typing import Any

from ppokit.data.formats import Table
from ppokit.data.tables import undecodable
from ppokit.messages import shorten, shown
from ppokit.ratings.records import Pair, Rating, RatingColumns

_NUMBER = re.compile(r"[+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?", re.ASCII)
_Cells = list[Any]


class Layout:
    """Column numbers of the parts of a rating or a pair, and how a row of cells becomes one.

    Attributes:
        holds_pairs: whether the file holds pairs.
        index: column number of each part that the file must have.
        notes: how the columns were read, for a person to check.

    Raises:
        DataError: a column is missing, or stands twice.
    """

    def __init__(self, table: Table, columns: RatingColumns) -> None:
        self.table = table
        self.notes: list[str] = []
        have = set(table.header)
        self.holds_pairs = columns.rating not in have and {columns.chosen, columns.rejected} <= have
        needed = ("chosen", "rejected") if self.holds_pairs else ("response", "rating")
        self.index = {name: self._find(name, getattr(columns, name)) for name in ("prompt", *needed)}
        self.rater = self._optional("rater", columns.rater)
        self.split = self._optional("split", columns.split)
        self.item = self._optional("item", columns.item)
        self.aspects = {name: self._find("aspects", name) for name in columns.aspects}
        if columns.item is None and self.item is not None and self._numbers_rows(self.item):
            self.item = None
            self.notes.append(
                "the column 'item' differs in every row, though texts are repeated, so the items are the "
                "distinct texts (to keep the column: --column item=item)"
            )

    def _find(self, name: str, column: str) -> int:
        return self.table.index(
            column, f"Say which holds the {name}: --column {name}=NAME, or columns.{name} in a recipe."
        )

    def _optional(self, name: str, column: str | None) -> int | None:
        if column is None and name not in self.table.header:
            return None
        return self._find(name, column or name)

    def _numbers_rows(self, item: int) -> bool:
        rows = self.table.rows
        parts = [index for name, index in self.index.items() if name != "rating"]
        items = [cells[item] for _, cells in rows if cells[item] not in (None, "")]
        texts = {tuple(str(cells[index]) for index in parts) for _, cells in rows}
        return len(set(map(str, items))) == len(rows) > len(texts)

    def rating(self, row: int, cells: _Cells, faults: list[str]) -> Rating:
        """A row as a rating; where `faults` are added it is not one."""
        prompt = self._prompt(cells, faults)
        response = self._text("response", cells, faults)
        rating = self._number("rating", cells[self.index["rating"]], faults)
        aspects = {
            name: None if _missing(cells[index]) else self._number(name, cells[index], faults)
            for name, index in self.aspects.items()
        }
        item = self._name(self.item, cells) or digest(prompt, response)
        split = self._name(self.split, cells) or None
        return Rating(row, prompt, response, rating, self._name(self.rater, cells), item, split, aspects)

    def pair(self, row: int, cells: _Cells, faults: list[str]) -> Pair:
        """A row as a pair; where `faults` are added it is not one."""
        prompt = self._prompt(cells, faults)
        chosen = self._text("chosen", cells, faults)
        rejected = self._text("rejected", cells, faults)
        if not faults and chosen == rejected:
            faults.append("chosen and rejected are the same text; a tie cannot be trained on")
        item = self._name(self.item, cells) or digest(prompt, *sorted((chosen, rejected)))
        split = self._name(self.split, cells) or None
        return Pair(row, prompt, chosen, rejected, self._name(self.rater, cells), item, split)

    def _prompt(self, cells: _Cells, faults: list[str]) -> str:
        before = len(faults)
        text = self._text("prompt", cells, faults)
        if len(faults) == before and (not text or text.isspace()):
            faults.append("prompt is empty; expected text")
        return text

    def _text(self, name: str, cells: _Cells, faults: list[str]) -> str:
        value = cells[self.index[name]]
        if value is None:
            faults.append(f"{name} is missing; expected text")
        elif not isinstance(value, str):
            chat = " (of chats, ppokit ratings import makes texts)" if _is_chat(value) else ""
            faults.append(f"{name} is {shown(value)}; expected text{chat}")
        elif undecodable(value):
            faults.append(f"{name} holds what is no UTF-8 text; type it again and save as CSV UTF-8")
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
            if self.table.decimal_comma:
                text = decimal_point(text)
            if not _NUMBER.fullmatch(text) or isinstance(value, bool):
                faults.append(f"{name} is {shown(value)}; expected a number{self._hint(text)}")
                return math.nan
            number = float(text)
        if not math.isfinite(number):
            faults.append(f"{name} is {shorten(str(value))}; expected a finite number")
        return number

    def _hint(self, text: str) -> str:
        comma = not self.table.decimal_comma and re.fullmatch(r"-?\d+,\d+", text, re.ASCII)
        return " (7.5, not 7,5: commas stand between the cells)" if comma else ""

    @staticmethod
    def _name(index: int | None, cells: _Cells) -> str:
        if index is None or cells[index] is None:
            return ""
        return str(cells[index]).strip()


def decimal_point(text: str) -> str:
    """`7,5` as `7.5`, where commas do not stand between the cells; other text as it is."""
    one = text.count(",") == 1 and "." not in text
    return text.replace(",", ".") if one and _NUMBER.fullmatch(text.strip().replace(",", ".")) else text


def _missing(value: Any) -> bool:
    return value is None or (isinstance(value, str) and not value.strip())


def _is_chat(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and isinstance(value[0], dict)


def digest(*texts: str) -> str:
    """The item that texts make, the same in every file."""
    hashed = hashlib.sha256("\x00".join(texts).encode("utf-8", "surrogatepass"))
    return hashed.hexdigest()[:16]
