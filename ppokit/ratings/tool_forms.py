"""Ratings and choices in the forms that Argilla 2 and Label Studio export.

Argilla: one row per record, as `dataset.records.to_datasets().to_csv(...)` and pandas write it. A question's
answers stand in lists, in `<question>.responses`, `<question>.responses.users` and
`<question>.responses.status`. A list may be written as JSON, as Python, or as NumPy prints it. Answers that
are not `submitted` are left out, and counted. Pairs: fields `response_1` and `response_2`, and a question
`preference`.

Label Studio: one row an annotation, as its CSV export writes it: the task's own columns, the result of each
tag under the tag's name (`[{"rating": 4}]`, `[{"number": 4}]`, or the text of a choice), and `annotator`; or
its JSON export, one object a task, with `data` and `annotations`. Pairs: a `Pairwise` tag `preference` over
`response_1` and `response_2`, and its result `[{"selected": "left"}]`.
"""

from __future__ import annotations

import ast
import json
import re
from collections import Counter
from collections.abc import Mapping
from functools import partial
from typing import Any

from ppokit.data.formats import Table
from ppokit.errors import DataError
from ppokit.messages import listed, shorten, suggest
from ppokit.ratings.exporting import FIELDS, PREFERENCE, restored
from ppokit.ratings.form import Form, Record, Row, attempt, better_first, first_of
from ppokit.ratings.records import RatingColumns

_TOKEN = re.compile(r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"|[^\s,\[\]]+""")


class _ToolForm(Form):
    """Texts in columns, and a question whose answers stand in a column too."""

    end = ""  # of the names of columns with answers

    def __init__(self, table: Table, columns: RatingColumns) -> None:
        super().__init__(table, columns)
        self.pairs = f"{columns.rating}{self.end}" not in self.header and self.has(f"{PREFERENCE}{self.end}")
        self.question = PREFERENCE if self.pairs else columns.rating
        self._expect(f"{self.question}{self.end}", "rating", self.end)
        self.fields = FIELDS["pairs"] if self.pairs else (columns.response,)
        for column, name in ((columns.prompt, "prompt"), *((field, "response") for field in self.fields)):
            self._expect(column, name)
        for named, name in ((columns.rater, "rater"), (columns.item, "item")):
            if named is not None:
                self._expect(named, name)

    def _expect(self, column: str, name: str, end: str = "") -> None:
        if self.has(column):
            return
        offered = [other.removesuffix(end) for other in self.header if other.endswith(end)]
        near = suggest(column.removesuffix(end), offered) or "."
        raise DataError(
            f"{self.source} has no column {column!r}; it has {listed(map(repr, self.header))}{near} "
            f"Say which {'question' if end else 'column'} it is: --column {name}=NAME."
        )

    def records(self, row: Row, answer: Any, rater: Any, left_out: Counter[str]) -> list[Record]:
        """Of one answer, at most one; texts come back as they were before the export."""
        prompt, *texts = [_text(row[name]) for name in (self.columns.prompt, *self.fields)]
        item = _text(self.item(row, "item", "id"))
        if not self.pairs:
            return [[prompt, *texts, answer, rater, item]]
        two = better_first(texts, str(answer), self.question, left_out)
        return [[prompt, *two, rater, item]] if two is not None else []


class Argilla(_ToolForm):
    end = ".responses"

    def read(self, row: Row, left_out: Counter[str]) -> list[Record]:
        column = f"{self.question}{self.end}"
        answers = _listed(row[column])
        if not answers:
            left_out["rows without an answer"] += 1
            return []
        raters = self._beside(row, self.columns.rater or f"{column}.users", [None] * len(answers))
        states = self._beside(row, f"{column}.status", ["submitted"] * len(answers))
        if not len(answers) == len(raters) == len(states):
            raise ValueError(
                f"{len(answers)} answers, but {len(raters)} users and {len(states)} states; expected one each"
            )
        records: list[Record] = []
        for answer, rater, state in zip(answers, raters, states, strict=True):
            if state not in (None, "submitted"):
                left_out[f"{state} answers"] += 1
            elif answer is None:
                left_out["empty answers"] += 1
            else:
                records += self.records(row, answer, rater, left_out)
        return records

    def _beside(self, row: Row, column: str, default: list[Any]) -> list[Any]:
        return _listed(row[column]) if self.has(column) else default


class LabelStudio(_ToolForm):
    def __init__(self, table: Table, columns: RatingColumns) -> None:
        self._tasks = {"data", "annotations"} <= set(table.header)
        if self._tasks:  # of which the columns are those of its annotations
            objects = [dict(zip(table.header, cells, strict=True)) for _, cells in table.rows]
            tasks = [attempt(partial(_annotations, task)) for task in objects]
            names = {
                name: None for rows in tasks if not isinstance(rows, str) for row in rows for name in row
            }
            table = Table(table.source, tuple(names), [])
        super().__init__(table, columns)

    def read(self, row: Row, left_out: Counter[str]) -> list[Record]:
        if self._tasks:
            return [record for own in _annotations(row) for record in self._annotation(own, left_out)]
        return self._annotation(row, left_out)

    def _annotation(self, row: Row, left_out: Counter[str]) -> list[Record]:
        answer = self._answer(row.get(self.question))
        if answer is None:
            left_out["rows without an answer"] += 1
            return []
        return self.records(row, answer, _text(self.rater(row, "annotator")), left_out)

    def _answer(self, cell: Any) -> Any:
        if cell is None or not str(cell).strip():
            return None
        if isinstance(cell, str) and not cell.lstrip().startswith("["):
            return cell  # the text of a choice
        if isinstance(cell, str):
            try:
                cell = json.loads(cell)
            except ValueError as error:
                raise ValueError(f"{self.question} is {shorten(repr(cell))}, which is not JSON") from error
        if not isinstance(cell, list):
            return cell
        if len(cell) != 1 or not isinstance(cell[0], Mapping):
            raise ValueError(f"{self.question} has {len(cell)} results; expected one")
        answer = first_of(cell[0], "rating", "number", "selected", "choices")
        if isinstance(answer, list) and len(answer) == 1:
            return answer[0]
        if answer is None or isinstance(answer, list):
            raise ValueError(
                f"{self.question} is {shorten(json.dumps(cell))}; expected a rating, a number or a choice"
            )
        return answer


def _annotations(task: Row) -> list[dict[str, Any]]:
    """A task of a JSON export as the rows that its CSV would hold."""
    rows = []
    for annotation in task["annotations"] or []:
        if annotation.get("was_cancelled"):
            continue
        row = {**task["data"], "id": task.get("id"), "annotator": annotation.get("completed_by")}
        for result in annotation.get("result") or []:
            row.setdefault(result["from_name"], []).append(result["value"])
        rows.append(row)
    return rows


def _text(cell: Any) -> str | None:
    return None if cell is None else restored(str(cell))


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
    values: list[Any] = []
    for token in _TOKEN.findall(str(cell)):
        if token == "...":
            raise ValueError("a list ends early with ...; export it from Argilla as JSON lines or Parquet")
        quoted = token[0] in "'\""
        values.append(
            ast.literal_eval(token) if quoted else None if token in ("None", "nan", "NaN") else token
        )
    return values
