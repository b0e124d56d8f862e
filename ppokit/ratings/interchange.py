"""Ratings to and from the CSV forms of Argilla 2 and Label Studio.

Argilla: one row per record, as `dataset.records.to_datasets().to_csv(...)` and pandas write it. A question's
answers stand in lists, in `<question>.responses`, `<question>.responses.users` and
`<question>.responses.status`. A list may be written as JSON, as Python, or as NumPy prints it. Answers that
are not `submitted` are left out, and counted. Pairs: fields `response_1` and `response_2`, and a question
`preference`.

Label Studio: one row an annotation, as its CSV export writes it: the task's own columns, the result of each
tag under the tag's name (`[{"rating": 4}]`, `[{"number": 4}]`, or the text of a choice), and `annotator`.
Pairs: a `Pairwise` tag `preference` over `response_1` and `response_2`, and its result
`[{"selected": "left"}]`.

Files made here are opened in spreadsheets, where a cell that begins with = + - @, a tab or a line break may
run as a formula. Such a cell gets an apostrophe before it, and so does one that has apostrophes before such a
character; reading takes one away, so that every text comes back as it was.
"""

from __future__ import annotations

import ast
import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from ppokit.data.formats import BadRow, Table
from ppokit.data.tables import OnBadRow, read_table
from ppokit.errors import DataError
from ppokit.messages import listed, suggest
from ppokit.ratings.records import RatingColumns, RatingTable
from ppokit.ratings.table import table_of
from ppokit.ratings.writing import PAIR_COLUMNS, RATING_COLUMNS, write_csv

Tool = Literal["argilla", "label_studio"]
FIELDS = {"ratings": ("response",), "pairs": ("response_1", "response_2")}
PREFERENCE = "preference"
_Items = dict[tuple[str, ...], list[tuple[str, float]]]  # item and texts: raters and their ratings, or 1 or 2
_RISKY = re.compile("'*[=+\\-@\t\r\n＝＋－＠]")
_TOKEN = re.compile(r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"|[^\s,\[\]]+""")


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


def import_table(
    path: str | Path, tool: Tool, columns: RatingColumns | None = None, *, on_bad_row: OnBadRow = "fail"
) -> RatingTable:
    """Read a tool's CSV.

    Args:
        columns: `rating` names the question or tag, `prompt` and `response` the fields or task columns;
            `rater` and `item` other columns than the tool's own. Where the file has no such question but one
            named `preference` over `response_1` and `response_2`, it holds pairs.

    Raises:
        DataError: as in `read_ratings`; or no row has an answer.
    """
    columns = columns or RatingColumns()
    source = str(path)
    exported = read_table(path, {columns.prompt, columns.response, *FIELDS["pairs"]})
    reader = _Reader(exported, columns, tool)
    rows: list[tuple[int, list[Any]]] = []
    bad = list(exported.bad)
    notes = list(exported.notes)
    left_out: Counter[str] = Counter()
    for number_, cells in exported.rows:
        try:
            rows += [(number_, row) for row in reader.read(cells, left_out)]
        except ValueError as error:
            bad.append(BadRow(number_, str(error)))
    if left_out:
        notes.append(f"left out: {listed(f'{what} ({count:,})' for what, count in left_out.items())}")
    if not rows and not bad:
        raise DataError(
            f"{source} has no answer to {reader.question!r}{'; ' + notes[-1] if left_out else ''}"
        )
    header = PAIR_COLUMNS if reader.pairs else RATING_COLUMNS
    table = Table(source, header, rows, bad, notes=notes)
    return table_of(table, RatingColumns(item="item"), on_bad_row=on_bad_row)


class _Reader:
    """Where a tool's CSV keeps what, and how a row of it becomes rows of ppokit's own columns."""

    def __init__(self, table: Table, columns: RatingColumns, tool: Tool) -> None:
        self.header, self.source, self.tool = table.header, table.source, tool
        end = ".responses" if tool == "argilla" else ""
        self.pairs = f"{columns.rating}{end}" not in self.header and f"{PREFERENCE}{end}" in self.header
        self.question = PREFERENCE if self.pairs else columns.rating
        self.answer = self._find(f"{self.question}{end}", "rating", end)
        self.prompt = self._find(columns.prompt, "prompt")
        fields = FIELDS["pairs"] if self.pairs else (columns.response,)
        self.fields = [self._find(field, "response") for field in fields]
        self.status = self._maybe(f"{self.question}.responses.status") if tool == "argilla" else None
        users = f"{self.question}.responses.users" if tool == "argilla" else "annotator"
        self.rater = self._find(columns.rater, "rater") if columns.rater else self._maybe(users)
        item = next((name for name in ("item", "id") if name in self.header), None)
        self.item = self._find(columns.item, "item") if columns.item else self._maybe(item)

    def _find(self, column: str, name: str, end: str = "") -> int:
        if column in self.header:
            return self.header.index(column)
        offered = [other.removesuffix(end) for other in self.header if other.endswith(end)]
        near = suggest(column.removesuffix(end), offered) or "."
        raise DataError(
            f"{self.source} has no column {column!r}; it has {listed(map(repr, self.header))}{near} "
            f"Say which {'question' if end else 'column'} it is: --column {name}=NAME."
        )

    def _maybe(self, column: str | None) -> int | None:
        return self.header.index(column) if column in self.header else None

    def read(self, cells: Sequence[Any], left_out: Counter[str]) -> list[list[Any]]:
        """Ratings or pairs of a row; ValueError says why there are none."""

        def text(index: int | None) -> str | None:
            return None if index is None or cells[index] is None else restored(str(cells[index]))

        answers = self._answers(cells[self.answer])
        if not answers:
            left_out["rows without an answer"] += 1
            return []
        raters: list[Any] = [text(self.rater)]
        if self.tool == "argilla":
            raters = _listed(cells[self.rater]) if self.rater is not None else [None] * len(answers)
        states = _listed(cells[self.status]) if self.status is not None else ["submitted"] * len(answers)
        if not len(answers) == len(raters) == len(states):
            raise ValueError(
                f"{len(answers)} answers, but {len(raters)} users and {len(states)} states; expected one each"
            )
        prompt, fields, item = text(self.prompt), [text(index) for index in self.fields], text(self.item)
        records = []
        for answer, rater, state in zip(answers, raters, states, strict=True):
            if state not in (None, "submitted"):
                left_out[f"{state} answers"] += 1
            elif answer is None:
                left_out["empty answers"] += 1
            elif self.pairs:
                records.append([prompt, *self._order(answer, fields), rater, item])
            else:
                records.append([prompt, *fields, answer, rater, item])
        return records

    def _answers(self, cell: Any) -> list[Any]:
        if self.tool == "argilla":
            return _listed(cell)
        if cell is None or not str(cell).strip():
            return []
        if not str(cell).lstrip().startswith("["):
            return [str(cell)]  # the text of a choice
        try:
            results = json.loads(str(cell))
        except ValueError as error:
            raise ValueError(f"{self.question} is {str(cell)[:60]!r}, which is not JSON") from error
        if len(results) != 1 or not isinstance(results[0], dict):
            raise ValueError(f"{self.question} has {len(results)} results; expected one")
        for key in ("rating", "number", "selected"):
            if key in results[0]:
                return [results[0][key]]
        raise ValueError(f"{self.question} is {str(cell)[:60]!r}; expected a rating, a number or a choice")

    def _order(self, answer: Any, fields: list[str | None]) -> list[str | None]:
        first, second = fields
        if answer in ("left", "response_1"):
            return [first, second]
        if answer in ("right", "response_2"):
            return [second, first]
        expected = "left or right" if self.tool == "label_studio" else "response_1 or response_2"
        raise ValueError(f"{self.question} is {str(answer)[:60]!r}; expected {expected}")


def _listed(cell: Any) -> list[Any]:
    """A list from a cell: JSON, Python's own form, or NumPy's, which has no commas."""
    if cell is None or not str(cell).strip():
        return []
    if isinstance(cell, list):
        return cell
    try:
        value = json.loads(str(cell))
        return value if isinstance(value, list) else [value]
    except ValueError:
        pass
    values = []
    for token in _TOKEN.findall(str(cell)):
        if token == "...":
            raise ValueError("a list ends early with ...; export it from Argilla as JSON lines or Parquet")
        quoted = token[0] in "'\""
        values.append(
            ast.literal_eval(token) if quoted else None if token in ("None", "nan", "NaN") else token
        )
    return values
