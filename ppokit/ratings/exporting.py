"""Ratings written in the CSV forms that Argilla 2 and Label Studio read and write.

Files made here are opened in spreadsheets, where a cell that begins with = + - @, a tab or a line break may
run as a formula. Such a cell gets an apostrophe before it, and so does one that has apostrophes before such a
character; reading takes one away, so that every text comes back as it was.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from ppokit.ratings.names import Tool
from ppokit.ratings.records import RatingTable
from ppokit.ratings.writing import write_csv

FIELDS = {"ratings": ("response",), "pairs": ("response_1", "response_2")}
PREFERENCE = "preference"
_Items = dict[tuple[str, ...], list[tuple[str, float]]]  # item and texts: raters and their ratings, or 1 or 2
_RISKY = re.compile("'*[=+\\-@\t\r\n＝＋－＠]")


def harmless(text: str) -> str:
    """A text that no spreadsheet takes for a formula; `restored` gives it back."""
    return f"'{text}" if _RISKY.match(text) else text


def restored(text: str) -> str:
    """The text that `harmless` changed."""
    return text[1:] if text.startswith("'") and _RISKY.match(text) else text


def export(table: RatingTable, path: str | Path, tool: Tool, *, unrated: bool = False) -> int:
    """Write a table in a tool's form; returns the number of rows.

    Args:
        unrated: write each item once, without its ratings, to have them rated in the tool.

    Raises:
        DataError: the file is there already, or cannot be written.
    """
    question = PREFERENCE if table.pairs else "rating"
    fields = FIELDS["pairs" if table.pairs else "ratings"]
    items: _Items = defaultdict(list)
    for rating in table.ratings:
        value = int(rating.rating) if rating.rating.is_integer() else rating.rating
        items[rating.item, rating.prompt, rating.response].append((rating.rater, value))
    for pair in table.pairs:
        # Sorted, so that the better one does not always stand left.
        first, second = sorted((pair.chosen, pair.rejected))
        which = 1 if pair.chosen == first else 2
        items[pair.item, pair.prompt, first, second].append((pair.rater, which))
    if unrated:
        header = ("id" if tool == "argilla" else "item", "prompt", *fields)
        return write_csv(path, header, ([harmless(cell) for cell in key] for key in items))
    if tool == "argilla":
        answers = [f"{question}.responses{end}" for end in ("", ".users", ".status")]
        rows = _argilla_rows(items, bool(table.pairs))
        return write_csv(path, ("id", "prompt", *fields, *answers), rows)
    header = ("annotation_id", "annotator", "id", "item", "prompt", *fields, question)
    return write_csv(path, header, _label_studio_rows(items, bool(table.pairs)))


def _argilla_rows(items: _Items, pairs: bool) -> Iterator[list[str]]:
    for key, answered in items.items():
        answers = [f"response_{value}" if pairs else value for _, value in answered]
        lists = (answers, [rater for rater, _ in answered], ["submitted"] * len(answered))
        yield [*map(harmless, key), *(json.dumps(cell, ensure_ascii=False) for cell in lists)]


def _label_studio_rows(items: _Items, pairs: bool) -> Iterator[list[str]]:
    annotation = 0
    for task, (key, answered) in enumerate(items.items(), 1):
        for rater, value in answered:
            annotation += 1
            result = {"selected": "left" if value == 1 else "right"} if pairs else {"rating": value}
            yield [str(annotation), harmless(rater), str(task), *map(harmless, key), json.dumps([result])]
